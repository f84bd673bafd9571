"""Model names become folders, downloads and one-line errors."""

import errno
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub
import huggingface_hub.constants
import pytest
from huggingface_hub.utils import filter_repo_objects

from qwen35_mlx.checkpoint import hub, hub_client
from qwen35_mlx.errors import Qwen35Error

COMMIT = "0123456789012345678901234567890123456789"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder without models, for processes that a test starts too."""
    home = tmp_path / "user"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("LLAMA_CACHE", raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return home


def test_a_folder_is_returned_unchanged(tmp_path: Path):
    assert hub.resolve_checkpoint(str(tmp_path)) == tmp_path


def test_a_folder_comes_before_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "org" / "repo").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert hub.resolve_checkpoint("org/repo") == Path("org/repo")


def test_home_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert hub.resolve_checkpoint("~") == tmp_path


@pytest.mark.parametrize(
    "name", ["nothing", "./org/repo", "/no/where", "a/b/c", "../up", "org/", "~/x", "", "a b/c"]
)
def test_a_path_that_does_not_exist_is_not_looked_for_on_the_hub(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", None)
    with pytest.raises(Qwen35Error, match="does not exist, and is not a Hub repository"):
        hub.resolve_checkpoint(name)


def test_a_file_is_refused(tmp_path: Path):
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(Qwen35Error, match="is neither a checkpoint folder nor a GGUF file"):
        hub.resolve_checkpoint(str(tmp_path / "model.safetensors"))


def test_a_gguf_file_and_its_folder(tmp_path: Path):
    parts = [tmp_path / f"m-0000{number}-of-00002.gguf" for number in (1, 2)]
    for file in (*parts, tmp_path / "mmproj-F16.gguf"):
        file.touch()
    for name in (*parts, tmp_path):
        assert hub.resolve_checkpoint(str(name)) == parts[0]


# Copies of other programs


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ConnectionError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", fail)


def complete(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"model_type": "qwen3_5"}')
    (folder / "model.safetensors").write_bytes(bytes(9))
    return folder


def test_a_copy_of_another_program_needs_no_network(home: Path, no_network: None):
    folder = complete(home / ".lmstudio" / "models" / "org" / "repo")
    gguf = home / ".lmstudio" / "models" / "org" / "gguf" / "m-Q4_0.gguf"
    gguf.parent.mkdir()
    gguf.touch()
    said: list[str] = []
    assert hub.resolve_checkpoint("org/repo", notice=said.append) == folder
    for name in ("org/gguf", "org/gguf:q4_0", "org/gguf/m-Q4_0.gguf"):
        assert hub.resolve_checkpoint(name, notice=said.append) == gguf
    assert said[:2] == [f"org/repo is read from {folder}", f"org/gguf is read from {gguf}"]
    # That program does not say which version it has.
    with pytest.raises(Qwen35Error, match="the connection broke while downloading org/repo"):
        hub.resolve_checkpoint("org/repo", revision="v2", progress=lambda *_: None)
    # A copy that is not complete is no reason not to download.
    (folder / "model.safetensors").unlink()
    with pytest.raises(Qwen35Error, match="the connection broke"):
        hub.resolve_checkpoint("org/repo", progress=lambda *_: None)


def test_the_cache_of_the_hub_comes_before_other_programs(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    cached = complete(tmp_path / "hub" / "models--org--repo" / "snapshots" / COMMIT)
    studio = complete(home / ".lmstudio" / "models" / "org" / "repo")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(cached))
    said: list[str] = []
    assert hub.resolve_checkpoint("org/repo", progress=None, notice=said.append) == cached
    assert said == [f"org/repo is read from {cached}, not {studio}"]


def test_which_files_are_downloaded():
    downloaded = [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "model.safetensors-00001-of-00002.safetensors",
        "model-00001-of-00002.safetensors",
        "model.safetensors.index.json",
        "mtp.safetensors",
        "mtp/config.json",
        "mtp/weights.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "vocab.json",
        "merges.txt",
        "chat_template.jinja",
    ]
    ignored = [
        "README.md",
        "original/consolidated.00.pth",
        "original/model.safetensors",
        "m/model.safetensors",
        "mt/model.safetensors",
        "mtpx/model.safetensors",
        "mmproj/model.safetensors",
        "mtp/old/model.safetensors",
        "mtp/README.md",
        "consolidated.safetensors",
        "pytorch_model.bin",
        "model.gguf",
        "onnx/model.onnx",
        "onnx/tokenizer.json",
        "adapter_model.safetensors",
        "preprocessor_config.json",
    ]
    found = filter_repo_objects(
        downloaded + ignored,
        allow_patterns=list(hub.ALLOW_PATTERNS),
        ignore_patterns=list(hub.IGNORE_PATTERNS),
    )
    assert list(found) == downloaded


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        RuntimeError("Xet: I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_is_named(error: Exception, monkeypatch: pytest.MonkeyPatch):
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(Qwen35Error, match="no space left to download org/repo"):
        hub.resolve_checkpoint("org/repo")


def test_an_unexpected_error_is_one_line(monkeypatch: pytest.MonkeyPatch):
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("first\nsecond")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(Qwen35Error, match=r"^cannot fetch org/repo \(RuntimeError: first\)"):
        hub.resolve_checkpoint("org/repo")


OUTSIDE = "../../../../outside"
BAD_HEADERS = {
    "org/outside-header": {"X-Repo-Commit": OUTSIDE},
    "org/outside-etag": {"ETag": f'"{OUTSIDE}"'},
    "org/outside-linked": {"X-Linked-ETag": f'"{OUTSIDE}"'},
}


class FakeHub(BaseHTTPRequestHandler):
    """The part of the Hub's protocol that a download uses, with its errors."""

    files = {"config.json": b"{}", "model.safetensors": bytes(300_000), "README.md": b"no"}  # noqa: RUF012
    gguf_files = {  # noqa: RUF012
        "README.md": b"no",
        "config.json": b"{ }",
        "m-Q4_K_M.gguf": bytes(4000),
        "m-UD-Q8_0.gguf": bytes(8000),
        "mmproj-F16.gguf": bytes(100),
        "../m-Q2_K.gguf": bytes(200),
        "BF16/m-BF16-00001-of-00002.gguf": bytes(1601),
        "BF16/m-BF16-00002-of-00002.gguf": bytes(1602),
    }

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        path = self.path.partition("?")[0]
        for name, status, code in (
            ("org/gated", 403, "GatedRepo"),
            ("org/none", 401, "RepoNotFound"),
            ("org/down", 503, ""),
        ):
            if name in path:
                return self.send(status, {"X-Error-Code": code, "X-Error-Message": code}, b"")
        if "revision/other" in path:
            return self.send(404, {"X-Error-Code": "RevisionNotFound"}, b"")
        files = self.gguf_files if "org/gguf" in path else self.files
        if "/tree/" in path:
            listing = [
                {"type": "file", "path": name, "size": len(data), "oid": "0" * 40}
                for name, data in files.items()
            ]
            return self.send(
                200, {"Content-Type": "application/json"}, json.dumps(listing).encode()
            )
        if "/resolve/" in path:
            data = files[path.partition("/resolve/")[2].partition("/")[2]]
            headers = {"ETag": f'"{len(data)}"', "X-Repo-Commit": COMMIT}
            for name, changed in BAD_HEADERS.items():
                headers |= changed if name in path else {}
            return self.send(200, headers, data, body)
        if "org/endless" in path:
            data = b"[" + b"1," * (hub_client.MAX_ANSWER_BYTES // 2) + b"1]"
            return self.send(200, {"Content-Type": "application/json"}, data)
        if "org/no-json" in path:
            return self.send(200, {"Content-Type": "application/json"}, b"[" * 200_000)
        if "org/outside-commit" in path:
            return self.send(200, {}, json.dumps({"id": "x", "sha": OUTSIDE}).encode())
        info = {"id": "org/repo", "modelId": "org/repo", "sha": COMMIT, "siblings": [], "tags": []}
        return self.send(200, {"Content-Type": "application/json"}, json.dumps(info).encode())

    def send(self, status: int, headers: dict[str, str], data: bytes, body: bool = True) -> None:
        self.send_response(status)
        for key, value in (headers | {"Content-Length": str(len(data))}).items():
            self.send_header(key, value)
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), FakeHub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


SCRIPT = """
import sys
from qwen35_mlx.checkpoint import hub
from qwen35_mlx.errors import Qwen35Error
seen = []
for name in sys.argv[1:]:
    name, _, revision = name.partition("@")
    try:
        path = hub.resolve_checkpoint(name, revision or None, lambda *now: seen.append(now))
        folder = path if path.is_dir() else path.parent
        print("ok", sorted(file.name for file in folder.iterdir()), max(seen, default=None))
    except Qwen35Error as error:
        print(error)
"""


def resolve_in_subprocess(cache: Path, *names: str, **environment: str) -> tuple[list[str], str]:
    """Lines on stdout, and stderr, of a new process: huggingface_hub reads its environment once."""
    removed = ("HF_TOKEN", "HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "ALL_PROXY")
    env = {k: v for k, v in os.environ.items() if k not in removed}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *names],
        env=env | {"HF_HOME": str(cache), "HF_HUB_DISABLE_XET": "1"} | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout.splitlines(), done.stderr


def test_download_then_offline_then_errors(address: str, tmp_path: Path):
    lines, stderr = resolve_in_subprocess(
        tmp_path, "org/repo", "org/gated", "org/none", "org/down", "org/repo@other",
        HF_ENDPOINT=address,
    )  # fmt: skip
    assert lines[0] == "ok ['config.json', 'model.safetensors'] (300002, 300002, 'org/repo')"
    assert "org/gated is gated: accept its terms" in lines[1]
    assert "hf auth login" in lines[1]
    assert "org/none is neither a folder here nor a repository" in lines[2]
    assert "the Hub answered 503 for org/down" in lines[3]
    assert "org/repo has no revision 'other'" in lines[4]
    assert len(lines) == 5
    assert "Traceback" not in stderr
    assert "%|" not in stderr, "with `progress` no bar is drawn"

    # A cached model needs no network, be it switched off or unreachable.
    for environment in ({"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:9"}):
        lines, _ = resolve_in_subprocess(tmp_path, "org/repo", "org/other", **environment)
        assert lines[0].startswith("ok ['config.json', 'model.safetensors']")
        assert "org/other is not a folder here, is not completely in the download cache" in lines[1]


def test_one_gguf_file_is_downloaded(address: str, tmp_path: Path):
    def names(*words: str, **environment: str) -> list[str]:
        lines, stderr = resolve_in_subprocess(tmp_path / "cache", *words, **environment)
        assert "Traceback" not in stderr
        return lines

    online, offline = {"HF_ENDPOINT": address}, {"HF_HUB_OFFLINE": "1"}
    first, second, *lines = names(
        "org/gguf", "org/gguf:bf16", "org/gguf:Q8_0", "org/gguf:Q5_K_M", "org/gguf/none.gguf",
        "org/repo:Q8_0", "org/gguf:Q2_K",
        **online,
    )  # fmt: skip
    # The default, with what the patterns of other checkpoints match, and no projector.
    assert first == "ok ['config.json', 'm-Q4_K_M.gguf'] (4000, 4000, 'org/gguf')"
    split = "['m-BF16-00001-of-00002.gguf', 'm-BF16-00002-of-00002.gguf']"
    assert second.startswith(f"ok {split} ")
    assert "'m-UD-Q8_0.gguf'" in lines[0]
    quantizations = "org/gguf:BF16, org/gguf:Q4_K_M, org/gguf:UD-Q8_0"
    assert lines[1] == f"org/gguf has no GGUF file of Q5_K_M: choose one, {quantizations}"
    assert lines[2] == f"org/gguf has no none.gguf: choose one, {quantizations}"
    assert lines[3] == "org/repo has no GGUF files: write org/repo alone"
    assert lines[4] == f"org/gguf has no GGUF file of Q2_K: choose one, {quantizations}"
    # What is there needs no network, not even to find out which files there are.
    lines = names(
        "org/gguf", "org/gguf:BF16", "org/gguf/m-UD-Q8_0.gguf", "org/gguf:Q2_K", **offline
    )
    assert [line[:2] for line in lines[:3]] == ["ok"] * 3
    assert "is not completely in the download cache" in lines[3]


def test_an_answer_that_names_a_path_or_has_no_end_is_refused(address: str, tmp_path: Path):
    names = ["org/outside-commit", *BAD_HEADERS, "org/endless", "org/no-json"]
    cache = tmp_path / "a" / "b" / "c" / "cache"
    cache.mkdir(parents=True)
    lines, stderr = resolve_in_subprocess(cache, *names, HF_ENDPOINT=address)
    for line, words in zip(
        lines,
        ["the commit", "X-Repo-Commit", "ETag", "X-Linked-ETag", "more than 16 MiB", "is not JSON"],
        strict=True,
    ):
        assert words in line
        assert "check HF_ENDPOINT" in line
    assert "Traceback" not in stderr
    assert [file for file in tmp_path.rglob("*outside*") if "models--" not in file.name] == []


def test_an_interrupted_download_is_not_used_as_a_model(address: str, tmp_path: Path):
    resolve_in_subprocess(tmp_path, "org/repo", HF_ENDPOINT=address)
    for file in (tmp_path / "hub").rglob("snapshots/*/model.safetensors"):
        file.unlink()
    lines, _ = resolve_in_subprocess(tmp_path, "org/repo", HF_HUB_OFFLINE="1")
    assert "org/repo is not a folder here, is not completely in the download cache" in lines[0]


SILENT = """
import os, sys, time
from qwen35_mlx.checkpoint import hub
from qwen35_mlx.errors import Qwen35Error
started = time.monotonic()
try:
    hub.resolve_checkpoint("org/repo", progress=lambda *_: None, stall_seconds=0.5)
except Qwen35Error as error:
    print(error, time.monotonic() - started < 5)
sys.stdout.flush()
"""


@pytest.fixture
def silent_address() -> Iterator[str]:
    """The address of a server that accepts connections and sends nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def test_a_silent_hub_is_given_up(silent_address: str, tmp_path: Path):
    environment = {"HF_ENDPOINT": silent_address, "HF_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", SILENT],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.stdout.startswith("the Hub has sent nothing of org/repo for ")
    assert done.stdout.endswith("True\n")
    assert done.stderr == ""


def test_a_download_that_moves_on_is_not_given_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    def slow(*_: Any, tqdm_class: Any, **__: Any) -> str:
        bar = tqdm_class(total=6, unit="B", desc="x")
        for step in range(1, 7):
            time.sleep(0.1)
            bar.update(step - bar.n)
        (tmp_path / "model.safetensors").touch()
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", slow)
    seen: list[tuple[int, int, str]] = []
    hub.resolve_checkpoint("org/repo", None, lambda *now: seen.append(now), stall_seconds=0.4)
    assert seen[-1] == (6, 6, "org/repo")


def test_progress_is_reported_on_the_callers_thread_and_may_cancel(
    monkeypatch: pytest.MonkeyPatch,
):
    ended = threading.Event()

    def endless(*_: Any, tqdm_class: Any, **__: Any) -> str:
        bar = tqdm_class(total=1000, unit="B", desc="x")
        try:
            while True:
                time.sleep(0.01)
                bar.update(1)
        finally:
            ended.set()

    def cancel(*_: Any) -> None:
        assert threading.current_thread() is threading.main_thread()
        raise Qwen35Error("cancelled")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", endless)
    with pytest.raises(Qwen35Error, match="cancelled"):
        hub.resolve_checkpoint("org/repo", None, cancel)
    assert ended.wait(5), "the download goes on"


def test_a_wrong_variable_of_the_hub_is_one_line(tmp_path: Path):
    lines, stderr = resolve_in_subprocess(tmp_path, "org/repo", HF_HUB_DOWNLOAD_TIMEOUT="soon")
    assert lines[-1].startswith("huggingface_hub does not start (")
    assert stderr == ""


@pytest.mark.parametrize("name", ["~nobody-of-this-name/x", "a" * 300, "x\0y", "\ud83d/x"])
def test_a_name_that_is_no_path_is_one_line(name: str):
    with pytest.raises(Qwen35Error):
        hub.resolve_checkpoint(name)
