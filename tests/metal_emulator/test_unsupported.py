"""Where the emulator does not run, it says why."""

import platform

import pytest

from tests.metal_emulator import unsupported


@pytest.mark.parametrize(("system", "machine"), [("Darwin", "arm64"), ("Linux", "aarch64")])
def test_other_platforms_are_unsupported(monkeypatch, system, machine):
    monkeypatch.setattr(platform, "system", lambda: system)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    assert unsupported() == "the Metal emulator runs on x86-64 Linux only"


def test_a_missing_compiler_is_reported(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    if unsupported() is not None:
        assert "Metal emulator" in str(unsupported())
