"""Import project: a small project to import rows into, the rows, and a server that has them."""

import hashlib
import importlib
import os
import shutil
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[2]
# No statement can name the package `import`.
command = importlib.import_module("tools.import.__main__").main
ROWS = b"".join(b'{"instruction": "Say %d.", "output": "%d"}\n' % (number, number) for number in range(100))
OWN = b'{"text": "mine"}\n'
KINDS = ".json, .jsonl, .parquet, .csv, .tsv, .txt, each also .gz or .zst"
PIPELINE = """\
stages:
  preprocess:
    cmd: mkdir -p data/prepared && cat data/raw/* > data/prepared/train.jsonl
    deps: [data/raw]
    outs: [data/prepared/train.jsonl]
"""
WHO = {f"GIT_{role}_{part}": "test" for role in ("AUTHOR", "COMMITTER") for part in ("NAME", "EMAIL")}
PLAIN = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy") and key != "DVC_ROOT"}
ENVIRONMENT = PLAIN | WHO | {"PYTHONPATH": str(ROOT)}


def run(folder: Path, line: str) -> str:
    """Run a command that must succeed."""
    done = subprocess.run(line.split(), cwd=folder, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def build(folder: Path) -> None:
    """Make a git and DVC repository with this one's settings, one raw row in git, and a pipeline that has run."""
    for name in (".dvc/config", ".dvc/.gitignore", ".dvcignore", ".gitignore"):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    (folder / "dvc.yaml").write_text(PIPELINE, encoding="utf-8")
    (folder / "data" / "raw").mkdir(parents=True)
    (folder / "data" / "raw" / "own.jsonl").write_bytes(OWN)
    for line in ("git init -q", "dvc repro -q", "git add -A", "git commit -qm start"):
        run(folder, line)


def tree(folder: Path) -> dict[str, bytes]:
    """Read every file in data/ that an import could change."""
    found = [path for path in (folder / "data").rglob("*") if path.is_file() and "prepared" not in path.parts]
    return {path.relative_to(folder / "data").as_posix(): path.read_bytes() for path in sorted(found)}


def record(folder: Path, name: str) -> dict[str, Any]:
    return YAML(typ="safe", pure=True).load(folder / "data" / f"{name}.dvc")


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def lines(folder: Path, name: str) -> list[str]:
    return (folder / "data/raw" / name).read_text(encoding="utf-8").splitlines()


class Web(ThreadingHTTPServer):
    """A server on the loopback interface; `answers` holds status, headers and body by path and query."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Page)
        self.answers: dict[str, tuple[int, dict[str, str], bytes]] = {}
        self.broken = threading.Event()
        self.scheme = "http"

    @property
    def address(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.server_port}"


class Page(BaseHTTPRequestHandler):
    server: Web

    def do_GET(self) -> None:
        status, headers, body = self.server.answers.get(self.path, (404, {}, b""))
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
        if int(headers.get("Content-Length", 0)) > len(body):
            self.server.broken.wait(60)  # send half of it, and break off when the test says so
        self.close_connection = True

    def log_message(self, *arguments: Any) -> None:
        """Stay silent."""
