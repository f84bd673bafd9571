import platform

import pytest

from tests.metal_emulator import unsupported


@pytest.mark.parametrize(("system", "machine"), [("Darwin", "arm64"), ("Linux", "aarch64")])
def test_other_machines_are_told_why_tests_are_skipped(monkeypatch, system, machine):
    monkeypatch.setattr(platform, "system", lambda: system)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    assert unsupported() == "the Metal emulator runs on x86-64 Linux only"


def test_without_the_compiler_the_package_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    if unsupported() is not None:
        assert "Metal emulator" in str(unsupported())
