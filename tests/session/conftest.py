from pathlib import Path

import pytest

from qwen35_mlx.session.model import Model, load


@pytest.fixture(scope="session")
def model(model_folder: Path) -> Model:
    return load(model_folder)
