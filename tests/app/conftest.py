import pytest
from qwen35_chat import app


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "POLLS_PER_SECOND", 100)
    monkeypatch.setattr(app, "DRAWING_SHARE", 1e9)
