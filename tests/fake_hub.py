"""A Hub on this machine: the part of its protocol that streaming and uploading use."""

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import huggingface_hub.constants
import pytest

COMMIT = "0123456789012345678901234567890123456789"
REPOSITORY = "org/repo"


class FakeHub(BaseHTTPRequestHandler):
    """Serves the files of a folder as those of `REPOSITORY`, large ones by way of another host.

    Attributes:
        folder: of the files.
        requests: method, path and range of all requests so far.
        changed: contents that are sent in place of those of the folder, by name.
        ignores_ranges: whether files are sent whole, whatever range is requested.
    """

    protocol_version = "HTTP/1.1"
    folder: ClassVar[Path]
    requests: ClassVar[list[tuple[str, str, str]]]
    changed: ClassVar[dict[str, bytes]]
    ignores_ranges: ClassVar[bool]

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        path = self.path.partition("?")[0]
        self.requests.append((self.command, path, self.headers.get("Range", "")))
        if path.startswith("/api/models/"):
            names = sorted(file.name for file in self.folder.iterdir())
            siblings = [{"rfilename": name} | self.about(name) for name in names]
            body = {"id": REPOSITORY, "sha": COMMIT, "siblings": siblings, "tags": []}
            if "/tree/" in path:
                body = [{"type": "file", "path": n, "oid": "0" * 40} | self.about(n) for n in names]
            self.send(200, {"Content-Type": "application/json"}, json.dumps(body).encode())
        elif match := re.search(r"/(resolve|cdn)/[^/]+/([^/]+)$", path):
            self.send_file(match[2], redirects=match[1] == "resolve")
        else:
            self.send(404, {}, b"")

    def about(self, name: str) -> dict[str, Any]:
        data = (self.folder / name).read_bytes()
        if not name.endswith(".safetensors"):
            return {"size": len(data)}
        sha256 = hashlib.sha256(data).hexdigest()
        lfs = {"sha256": sha256, "oid": sha256, "size": len(data), "pointerSize": 100}
        return {"size": len(data), "lfs": lfs}

    def send_file(self, name: str, redirects: bool) -> None:
        data = (self.folder / name).read_bytes()
        tag = hashlib.sha256(data).hexdigest()
        headers = {"ETag": f'"{tag}"', "X-Repo-Commit": COMMIT}
        if redirects and name.endswith(".safetensors"):
            port = self.server.server_address[1]
            headers["Location"] = f"http://localhost:{port}/cdn/{COMMIT}/{name}"
            headers |= {"X-Linked-ETag": f'"{tag}"', "X-Linked-Size": str(len(data))}
            self.send(302, headers, b"")
            return
        data = self.changed.get(name, data)
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if wanted is None or self.ignores_ranges:
            self.send(200, headers, data)
            return
        start, stop = int(wanted[1]), min(int(wanted[2] or len(data)) + 1, len(data))
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(data)}"
        self.send(206, headers, data[start:stop])

    def send(self, status: int, headers: dict[str, str], data: bytes) -> None:
        self.send_response(status)
        for key, value in (headers | {"Content-Length": str(len(data))}).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        pass


class QuietServer(ThreadingHTTPServer):
    """A server that does not mind clients that hang up, or are killed."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass


@contextmanager
def serve(folder: Path) -> Iterator[tuple[type[FakeHub], str]]:
    """A Hub with the files of a folder, and its address."""

    class Handler(FakeHub):
        pass

    Handler.folder, Handler.requests, Handler.changed = folder, [], {}
    Handler.ignores_ranges = False
    server = QuietServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield Handler, f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def use(address: str, patch: pytest.MonkeyPatch) -> None:
    """Let huggingface_hub in this process use a Hub of this machine."""
    template = address + "/{repo_id}/resolve/{revision}/{filename}"
    patch.setattr(huggingface_hub.constants, "ENDPOINT", address)
    patch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    patch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
