"""A Hub on this machine that serves one large folder: `python -m scripts.support.local_hub FOLDER`.

It has the part of the protocol that a conversion with --stream uses, sends files from the disk in
pieces, and prints its address. The folder is the repository "org/model".
"""

import hashlib
import json
import re
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

_COMMIT = "0123456789012345678901234567890123456789"
_PIECE = 1 << 20


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    folder: ClassVar[Path]
    hashes: ClassVar[dict[str, str]]

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = self.path.partition("?")[0]
        if match := re.search(r"/resolve/[^/]+/([^/]+)$", path):
            self._send_file(match[1])
            return
        names = sorted(self.hashes)
        body: Any = {
            **{"id": "org/model", "sha": _COMMIT, "tags": []},
            "siblings": [{"rfilename": name} | self._about(name) for name in names],
        }
        if "/tree/" in path:
            body = [{"type": "file", "path": n, "oid": "0" * 40} | self._about(n) for n in names]
        data = json.dumps(body).encode()
        self._begin(200, {"Content-Type": "application/json"}, len(data))
        self.wfile.write(data)

    def _about(self, name: str) -> dict[str, Any]:
        size, digest = (self.folder / name).stat().st_size, self.hashes[name]
        lfs = {"sha256": digest, "oid": digest, "size": size, "pointerSize": 100}
        return {"size": size, "lfs": lfs} if name.endswith(".safetensors") else {"size": size}

    def _send_file(self, name: str) -> None:
        if name not in self.hashes:
            self._begin(404, {}, 0)
            return
        size = (self.folder / name).stat().st_size
        headers = {"ETag": f'"{self.hashes[name]}"', "X-Repo-Commit": _COMMIT}
        start, stop = 0, size
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if wanted:
            start, stop = int(wanted[1]), min(int(wanted[2] or size) + 1, size)
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
        self._begin(206 if wanted else 200, headers, stop - start)
        if self.command == "HEAD":
            return
        with (self.folder / name).open("rb") as file:
            file.seek(start)
            while start < stop:
                data = file.read(min(_PIECE, stop - start))
                self.wfile.write(data)
                start += len(data)

    def _begin(self, status: int, headers: dict[str, str], length: int) -> None:
        self.send_response(status)
        for key, value in (headers | {"Content-Length": str(length)}).items():
            self.send_header(key, value)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


def main() -> None:
    folder = Path(sys.argv[1])
    _Handler.folder, _Handler.hashes = folder, {}
    for file in folder.iterdir():
        with file.open("rb") as opened:
            _Handler.hashes[file.name] = hashlib.file_digest(opened, "sha256").hexdigest()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
