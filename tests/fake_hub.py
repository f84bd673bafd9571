"""A Hub on this machine: the part of its protocol that streaming and uploading use."""

import base64
import hashlib
import json
import re
import threading
import time
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
        seconds: that each file takes to come.
        accounts: whether each token may write.
        made: the repositories: whether it is private, and its files.
        uploaded: contents of large files, by SHA-256.
    """

    protocol_version = "HTTP/1.1"
    folder: ClassVar[Path]
    requests: ClassVar[list[tuple[str, str, str]]]
    changed: ClassVar[dict[str, bytes]]
    ignores_ranges: ClassVar[bool]
    seconds: ClassVar[float]
    accounts: ClassVar[dict[str, bool]]
    made: ClassVar[dict[str, tuple[bool, dict[str, bytes]]]]
    uploaded: ClassVar[dict[str, bytes]]

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/api/whoami-v2":
            return self.send_json({"type": "user", "name": "me"}, 200 if self.may() else 401)
        name = path.removeprefix("/api/models/").removesuffix("/revision/main")
        if name in self.made or name.startswith("me/"):
            return self.describe(name)
        self.requests.append((self.command, path, self.headers.get("Range", "")))
        if path.startswith("/api/models/"):
            names = sorted(file.name for file in self.folder.iterdir())
            siblings = [{"rfilename": name} | self.about(name) for name in names]
            body = {"id": REPOSITORY, "sha": COMMIT, "siblings": siblings, "tags": []}
            if "/tree/" in path:
                body = [{"type": "file", "path": n, "oid": "0" * 40} | self.about(n) for n in names]
            self.send_json(body)
        elif match := re.search(r"/(resolve|cdn)/[^/]+/([^/]+)$", path):
            self.send_file(match[2], redirects=match[1] == "resolve")
        else:
            self.send(404, {}, b"")
        return None

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def may(self, write: bool = False) -> bool:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        return self.accounts.get(token, False) if write else token in self.accounts

    def describe(self, name: str) -> None:
        if name not in self.made:
            return self.send(404, {"X-Error-Code": "RepoNotFound"}, b"")
        private, files = self.made[name]
        siblings = [{"rfilename": file} for file in files]
        return self.send_json(
            {"id": name, "sha": COMMIT, "private": private, "siblings": siblings, "tags": []}
        )

    def do_PUT(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        self.uploaded[hashlib.sha256(data).hexdigest()] = data
        self.send(200, {}, b"")

    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = self.path.partition("?")[0]
        if not self.may(write=True):
            return self.send(403, {"X-Error-Message": "no"}, b"")
        if path == "/api/repos/create":
            asked = json.loads(data)
            name = f"{asked.get('organization') or 'me'}/{asked['name']}"
            private = asked.get("private") or asked.get("visibility") == "private"
            self.made[name] = bool(private), {".gitattributes": b""}
            return self.send_json({"url": f"{self.address}/{name}"})
        if "/preupload/" in path:
            modes = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular",
                    "shouldIgnore": False,
                }
                for file in json.loads(data)["files"]
            ]
            return self.send_json({"files": modes})
        if path.endswith("/objects/batch"):
            place = f"{self.address}/put"
            objects = [
                one | {"actions": {"upload": {"href": place}}}
                for one in json.loads(data)["objects"]
            ]
            return self.send_json({"transfer": "basic", "objects": objects})
        if match := re.fullmatch(r"/api/models/(.+)/commit/main", path):
            for line in map(json.loads, data.splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    content = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    content = self.uploaded[value["oid"]]
                else:
                    continue
                self.made[match[1]][1][value["path"]] = content
            url = f"{self.address}/{match[1]}/commit/{COMMIT}"
            return self.send_json({"success": True, "commitUrl": url, "commitOid": COMMIT})
        return self.send_json({})

    def send_json(self, value: Any, status: int = 200) -> None:
        self.send(status, {"Content-Type": "application/json"}, json.dumps(value).encode())

    def about(self, name: str) -> dict[str, Any]:
        data = (self.folder / name).read_bytes()
        if not name.endswith(".safetensors"):
            return {"size": len(data)}
        sha256 = hashlib.sha256(data).hexdigest()
        lfs = {"sha256": sha256, "oid": sha256, "size": len(data), "pointerSize": 100}
        return {"size": len(data), "lfs": lfs}

    def send_file(self, name: str, redirects: bool) -> None:
        time.sleep(self.seconds)
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
    Handler.ignores_ranges, Handler.seconds = False, 0.0
    Handler.accounts, Handler.made, Handler.uploaded = {}, {}, {}
    server = QuietServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
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
