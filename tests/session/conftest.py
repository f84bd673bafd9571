import shutil
import subprocess
from collections.abc import Generator
from pathlib import Path

import pytest

from qwen35_mlx.session.model import Model, load


@pytest.fixture(scope="session")
def model(model_folder: Path) -> Model:
    return load(model_folder)


@pytest.fixture
def small_disk(tmp_path: Path) -> Generator[Path]:
    """A disk of 4 MB, where mounting one is allowed."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if shutil.which("mount") is None:
        pytest.skip("no mount command")
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no right to mount a small disk")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)
