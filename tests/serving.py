"""A checkout that serves the model of this one: `served`, one for the session, where there is all it needs."""

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from needs import missing
from recorded import ENVIRONMENT, commit, run

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("vllm", "webui")


class Served:
    """A copy of this checkout, with ports of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.variables = {name: value for name, value in ENVIRONMENT.items() if name not in ("RUN", "PYTHONPATH")}
        self.variables |= {"API_PORT": str(free_port()), "WEBUI_PORT": str(free_port())}

    def tool(self, name: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Run one of tools/ in it."""
        command = [sys.executable, "-m", f"tools.{name}", *arguments]
        return subprocess.run(command, cwd=self.folder, env=self.variables, capture_output=True, text=True)

    def serve(self, *arguments: str) -> str:
        """Serve; the pipeline may be under work, so it need not be proven."""
        done = self.tool("serve", "--force", *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    @property
    def address(self) -> str:
        """Where the first model answers."""
        return f"http://127.0.0.1:{self.variables['API_PORT']}"

    def endpoints(self) -> list[dict[str, Any]]:
        """The models that are served."""
        return json.loads((self.folder / ".serve" / "serving.json").read_text(encoding="utf-8"))["endpoints"]

    def model(self) -> str:
        """The name of the first."""
        return self.endpoints()[0]["name"]

    def page(self) -> httpx.Client:
        """Sign in at the page."""
        client = httpx.Client(base_url=f"http://127.0.0.1:{self.variables['WEBUI_PORT']}", timeout=60)
        account = {"email": self.key("ADMIN_EMAIL"), "password": self.key("ADMIN_PASSWORD")}
        token = client.post("/api/v1/auths/signin", json=account).raise_for_status().json()["token"]
        client.headers["Authorization"] = f"Bearer {token}"
        return client

    def supervisor(self) -> int:
        """The process that keeps the parts running."""
        return int((self.folder / ".serve" / "supervisord.pid").read_text())

    def is_healthy(self) -> bool:
        """What `make status` says."""
        return self.tool("status").returncode == 0

    def key(self, name: str = "API_KEY") -> str:
        lines = (self.folder / ".env").read_text(encoding="utf-8").splitlines()
        return dict(line.split("=", 1) for line in lines if "=" in line)[name]

    def log(self, name: str) -> str:
        (path,) = (self.folder / "logs" / "serve").glob(name)
        return path.read_text(encoding="utf-8", errors="replace")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def copy(folder: Path) -> Path:
    """Copy what git knows of this checkout, as it is now, and what serving reads beside that."""
    listed = run(ROOT, "git", "ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0")
    kept = [name for name in listed if name and (ROOT / name).is_file()]
    for name in kept:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    for name in ("models", "data/prepared"):
        shutil.copytree(ROOT / name, folder / name, dirs_exist_ok=True)
    (folder / ".serve").mkdir()
    for part in PARTS:
        (folder / ".serve" / part).symlink_to(ROOT / ".serve" / part)
    run(folder, "git", "init", "--quiet")
    commit(folder, "copy")
    return folder


def require() -> None:
    """Skip without what is served, and what serves it."""
    made = all((ROOT / ".serve" / part / ".made").exists() for part in PARTS)
    if not made or not (ROOT / "models" / "awq").exists():
        missing("no environments in .serve or no models/awq; `make repro serve stop` makes them")


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The awq model of this checkout behind nginx and the page."""
    require()
    if not shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin"):
        missing("no nginx; such as `apt install nginx`")
    checkout = Served(copy(tmp_path_factory.mktemp("served")))
    try:
        checkout.serve()
        yield checkout
    finally:
        checkout.tool("stop")
