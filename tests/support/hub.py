"""A model hub for tests: a server on the loopback interface with the part of the hub's API that this project uses."""

import hashlib
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """Models and datasets by name, each a folder at one commit.

    Attributes:
        asked: the files that were downloaded, in order.
        sent: how many bytes of them.
        broken: names of files whose next download breaks off in the middle.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.models: dict[str, Path] = {}
        self.datasets: dict[str, Path] = {}
        self.licences: dict[str, Any] = {}
        self.asked: list[str] = []
        self.sent = 0
        self.broken: set[str] = set()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Answer(BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        path = self.path.partition("?")[0]
        body = self.find(path, "/api/models", "", self.server.models)
        if body is None:
            body = self.find(path, "/api/datasets", "/datasets", self.server.datasets)
        if body is None:
            body = self.find_on_modelscope()
        if body is not None:
            return self.send(body)
        code = "GatedRepo" if "/lockstep/gated/" in path else "RepoNotFound"
        if any(f"/{name}/" in path for name in self.server.models):
            code = "EntryNotFound" if COMMIT in path else "RevisionNotFound"
        self.send_response(403 if code == "GatedRepo" else 404)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()
        return None

    do_GET = do_HEAD

    def find_on_modelscope(self) -> bytes | None:
        """Answer ModelScope's two questions: which files has a commit, and one of them."""
        address = urlsplit(self.path)
        asked = parse_qs(address.query)
        for name, folder in self.server.models.items():
            if asked.get("Revision") != [COMMIT] or not address.path.startswith(f"/api/v1/models/{name}/repo"):
                continue
            if address.path.endswith("/repo/files"):
                return json.dumps(
                    {"Code": 200, "Success": True, "Data": {"Files": modelscope_listing(folder)}}
                ).encode()
            self.server.asked.append(asked["FilePath"][0])
            return (folder / asked["FilePath"][0]).read_bytes()
        return None

    def find(self, path: str, api: str, files: str, folders: dict[str, Path]) -> bytes | None:
        for name, folder in folders.items():
            if path == f"{api}/{name}/tree/{COMMIT}":
                return json.dumps(listing(folder)).encode()
            if path == f"{api}/{name}/revision/{COMMIT}":
                card = {"license": self.server.licences[name]} if name in self.server.licences else None
                siblings = [{"rfilename": file["path"], "size": file["size"]} for file in listing(folder)]
                return json.dumps({"id": name, "sha": COMMIT, "cardData": card, "siblings": siblings}).encode()
            file = folder / path.removeprefix(f"{files}/{name}/resolve/{COMMIT}/")
            if path.startswith(f"{files}/{name}/resolve/{COMMIT}/") and file.is_file():
                if self.command == "GET":
                    self.server.asked.append(file.relative_to(folder).as_posix())
                return file.read_bytes()
        return None

    def send(self, body: bytes) -> None:
        etag, size = hashlib.sha256(body).hexdigest(), len(body)
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0])
        body = body[start:]
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{etag}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if self.command != "GET":
            return
        if (name := self.path.rpartition("/")[2].partition("?")[0]) in self.server.broken:
            self.server.broken.discard(name)
            body = body[: len(body) // 2]
            self.close_connection = True
        self.wfile.write(body)
        if "/resolve/" in self.path:
            self.server.sent += len(body)

    def log_message(self, *arguments: Any) -> None:
        """Stay silent."""


def listing(folder: Path) -> list[dict[str, Any]]:
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return [
        {"type": "file", "path": path.relative_to(folder).as_posix(), "size": path.stat().st_size, "oid": "0" * 40}
        for path in found
    ]


def modelscope_listing(folder: Path) -> list[dict[str, Any]]:
    return [
        {
            "Name": file["path"],
            "Path": file["path"],
            "Type": "blob",
            "Size": file["size"],
            "Sha256": hashlib.sha256((folder / file["path"]).read_bytes()).hexdigest(),
            "Revision": COMMIT,
        }
        for file in listing(folder)
    ]
