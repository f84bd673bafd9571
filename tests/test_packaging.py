"""The formula for Homebrew, filled in for an archive."""

import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "packaging" / "fill_formula"


def fill(url: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([SCRIPT, url], capture_output=True, text=True)


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_the_formula_gets_the_address_and_the_digest_of_an_archive(tmp_path: Path) -> None:
    archive = tmp_path / "qwen35_mlx-0.1.0.tar.gz"
    archive.write_bytes(b"an archive")
    run = fill(archive.as_uri())
    assert (run.returncode, run.stderr) == (0, "")
    assert "@" not in run.stdout.replace("python@3.13", "")
    assert f'url "{archive.as_uri()}"' in run.stdout
    assert f'sha256 "{hashlib.sha256(b"an archive").hexdigest()}"' in run.stdout
    if ruby := shutil.which("ruby"):
        subprocess.run([ruby, "-c"], input=run.stdout, text=True, check=True, capture_output=True)


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_an_archive_that_is_missing_gives_no_formula(tmp_path: Path) -> None:
    run = fill((tmp_path / "missing").as_uri())
    assert run.returncode != 0
    assert run.stdout == ""
