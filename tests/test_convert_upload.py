"""The result of a conversion is uploaded to a repository of the Hub, and kept."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from qwen35_mlx.conversion.converter import convert
from qwen35_mlx.convert import main
from qwen35_mlx.errors import Qwen35Error
from tests.checkpoint.cases import golden, listing, write
from tests.fake_hub import FakeHub, serve, use

REPOSITORY = "me/model"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write(tmp_path / "source", *golden())


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[FakeHub]]:
    with serve(tmp_path) as (handler, address):
        use(address, monkeypatch)
        monkeypatch.setenv("HF_TOKEN", "writes")
        handler.accounts = {"writes": True, "reads": False}
        yield handler


def files_of(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_a_result_is_uploaded_to_a_private_repository(
    source: Path, tmp_path: Path, hub: type[FakeHub], capsys: Any
):
    out = tmp_path / "out"
    arguments = ["--hf-path", str(source), "--mlx-path", str(out), "--upload-repo", REPOSITORY]
    assert main(arguments) == 0
    private, files = hub.made[REPOSITORY]
    assert private
    files.pop(".gitattributes")
    assert files == files_of(out)
    assert not any(str(tmp_path).encode() in content for content in files.values())
    assert capsys.readouterr().out.splitlines()[-1].endswith(f"/{REPOSITORY}")


def test_a_public_repository(source: Path, tmp_path: Path, hub: type[FakeHub]):
    convert(source, tmp_path / "out", upload_repo=REPOSITORY, public=True)
    assert not hub.made[REPOSITORY][0]


@pytest.mark.parametrize(
    ("token", "made", "options", "words"),
    [
        (None, None, {}, "needs an account: log in with `hf auth login`"),
        ("wrong", None, {}, "log in with `hf auth login`"),
        ("reads", None, {}, "may not write to me/model: choose a name of its own, or log in"),
        ("writes", (True, {"a.txt": b""}), {}, "has files already, such as 'a.txt': choose a new"),
        ("writes", (False, {}), {}, "exists and is public: add --public or choose a new name"),
        ("writes", None, {"upload_repo": "model"}, "is no name such as org/name"),
        ("writes", None, {"upload_repo": "me/model:Q4"}, "is no name such as org/name"),
        ("writes", None, {"upload_repo": None, "public": True}, "add --upload-repo"),
    ],
)
def test_what_cannot_be_uploaded_is_refused_before_the_conversion(
    source: Path,
    tmp_path: Path,
    hub: type[FakeHub],
    monkeypatch: pytest.MonkeyPatch,
    token: str | None,
    made: Any,
    options: dict[str, Any],
    words: str,
):
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    monkeypatch.delenv("HF_TOKEN")
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    if made:
        hub.made[REPOSITORY] = made
    with pytest.raises(Qwen35Error, match=words) as caught:
        convert(source, tmp_path / "out", **{"upload_repo": REPOSITORY, **options})
    assert "\n" not in str(caught.value)
    assert listing(tmp_path) == {"source"}
    assert hub.uploaded == {}


def test_after_a_failed_upload_the_result_is_complete(
    source: Path, tmp_path: Path, hub: type[FakeHub], monkeypatch: pytest.MonkeyPatch
):
    out = tmp_path / "out"

    def refuse(self: FakeHub) -> None:
        self.send(500, {}, b"")

    monkeypatch.setattr(hub, "do_PUT", refuse)
    monkeypatch.setattr("time.sleep", lambda _: None)  # between huggingface_hub's attempts
    with pytest.raises(Qwen35Error, match="is complete: upload it with `hf upload me/model"):
        convert(source, out, upload_repo=REPOSITORY)
    convert(source, tmp_path / "expected")
    assert files_of(out) == files_of(tmp_path / "expected")
    assert set(hub.made[REPOSITORY][1]) == {".gitattributes"}
