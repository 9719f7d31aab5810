"""A stand-in for the Hugging Face hub: the few questions that ``datasets`` asks of it, answered from a folder over HTTP."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

COMMIT = "a" * 40


@contextmanager
def hub(folder: Path) -> Iterator[str]:
    """The address of a hub whose data sets are ``folder/owner/name/``."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            parts = unquote(urlparse(self.path).path).strip("/").split("/")
            if parts[:2] == ["api", "datasets"] and len(parts) >= 4:
                self.describe("/".join(parts[2:4]), parts[4:])
            elif parts[0] == "datasets" and parts[3:4] == ["resolve"]:
                self.file(folder.joinpath(*parts[1:3], *parts[5:]))
            else:
                self.missing("EntryNotFound")

        do_HEAD = do_GET

        def describe(self, name: str, rest: list[str]) -> None:
            files = {str(p.relative_to(folder / name)): p for p in sorted((folder / name).rglob("*")) if p.is_file()}
            if not files:
                self.missing("RepoNotFound")
            elif rest[:1] == ["tree"]:
                below = "/".join(rest[2:])
                entries = [{"type": "file", "oid": "b" * 40, "size": p.stat().st_size, "path": n} for n, p in files.items()]
                self.send([entry for entry in entries if str(entry["path"]).startswith(below)])
            else:
                self.send({"id": name, "sha": COMMIT, "private": False, "gated": False, "siblings": [{"rfilename": n} for n in files]})

        def file(self, path: Path) -> None:
            if not path.is_file():
                return self.missing("EntryNotFound")
            content = path.read_bytes()
            headers = {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
            if wanted := self.headers.get("Range"):
                first, _, last = wanted.removeprefix("bytes=").partition("-")
                part = content[int(first) : int(last) + 1 if last else None]
                headers["Content-Range"] = f"bytes {first}-{int(first) + len(part) - 1}/{len(content)}"
                return self.send(part, 206, headers)
            self.send(content, 200, headers)

        def missing(self, code: str) -> None:
            self.send({"error": code}, 404, {"X-Error-Code": code})

        def send(self, body: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
