"""The command `python -m qwen35_mlx.check`."""

import json
import subprocess
import sys

import pytest

from qwen35_mlx import check
from qwen35_mlx.kernels import gpu_kernel


@pytest.fixture(autouse=True)
def no_arguments(monkeypatch):
    monkeypatch.setattr("sys.argv", ["check"])


def test_it_says_why_there_is_nothing_to_check(monkeypatch, capsys):
    monkeypatch.setattr(gpu_kernel, "backend", lambda: None)
    assert check.main() == 0
    assert "no GPU here" in capsys.readouterr().out


def test_it_names_the_variable_that_disables_kernels(monkeypatch, capsys):
    monkeypatch.setenv(gpu_kernel.KERNELS_ENV, "reference")
    assert check.main() == 0
    assert f"{gpu_kernel.KERNELS_ENV} is 'reference'" in capsys.readouterr().out


@pytest.mark.usefixtures("kernels", "small_tuning", "results_file")
def test_it_prints_a_table_and_a_json_line(capsys):
    assert check.main() == 0
    *rows, last = capsys.readouterr().out.splitlines()
    assert any(row.startswith("delta_decode: ") for row in rows)
    assert sum(row.startswith("  *") for row in rows) == len(json.loads(last)["results"])


@pytest.mark.usefixtures("kernels", "small_tuning", "results_file")
def test_a_wrong_kernel_fails_it(monkeypatch, capsys):
    body = gpu_kernel.Kernel.body.fget
    monkeypatch.setattr(
        gpu_kernel.Kernel, "body", property(lambda k: body(k).replace("+ 1e-6f", "+ 1e-1f"))
    )
    assert check.main() == 1
    output = capsys.readouterr()
    assert "differs from its reference" in output.out
    assert "python -m qwen35_mlx.check" in output.err


@pytest.mark.usefixtures("kernels")
def test_a_model_that_does_not_exist_is_an_error(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("sys.argv", ["check", "--model", str(tmp_path / "none")])
    assert check.main() == 2
    assert "none" in capsys.readouterr().err


@pytest.mark.parametrize("module", ["qwen35_mlx.check", "qwen35_mlx.kernels.check"])
def test_its_former_name_still_works(module):
    command = [sys.executable, "-m", module, "--help"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout.startswith("usage: python -m qwen35_mlx.check ")
