"""A copy of this checkout that serves its model: `served`, one per session, if the machine has everything for it."""

import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from needs import default, missing, servable
from recorded import ENVIRONMENT, commit, run

from tools.serve.nginx import find_nginx

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = ("vllm", "webui")
# Keys and addresses of other services, as a shell may have them: none may reach a server.
SHELL = {
    **dict.fromkeys(("OPENAI_API_KEY", "ADMIN_PASSWORD", "AWS_SECRET_ACCESS_KEY", "HF_TOKEN"), "of the shell"),
    "RAG_OPENAI_API_BASE_URL": "http://127.0.0.1:9/of the shell",
    "VLLM_PLUGINS": "of the shell",
}


class Served:
    """A copy of this checkout with ports of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.sign_ins = folder, 0
        self.variables = {name: value for name, value in ENVIRONMENT.items() if name not in ("RUN", "PYTHONPATH")}
        self.variables |= SHELL | {"API_PORT": str(free_port()), "WEBUI_PORT": str(free_port())}

    def tool(self, name: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Run one of tools/ in the copy."""
        command = [sys.executable, "-m", f"tools.{name}", *arguments]
        return subprocess.run(command, cwd=self.folder, env=self.variables, capture_output=True, text=True)

    def serve(self, *arguments: str) -> str:
        """Serve. The pipeline may be in change, so the model need not be proven."""
        done = self.tool("serve", "--force", *(arguments or ("--model", servable())))
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    @property
    def address(self) -> str:
        """The address of the first model."""
        return f"http://127.0.0.1:{self.variables['API_PORT']}"

    def endpoints(self) -> list[dict[str, Any]]:
        """The served models."""
        return json.loads((self.folder / ".serve" / "serving.json").read_text(encoding="utf-8"))["endpoints"]

    def model(self) -> str:
        """The name of the first model."""
        return self.endpoints()[0]["name"]

    def webui(self) -> httpx.Client:
        """Sign in at the chat page, each time from another address: nginx counts sign-ins."""
        self.sign_ins += 1
        transport = httpx.HTTPTransport(local_address=f"127.0.9.{self.sign_ins}")
        base = f"http://127.0.0.1:{self.variables['WEBUI_PORT']}"
        client = httpx.Client(base_url=base, transport=transport, timeout=60)
        account = {"email": self.key("ADMIN_EMAIL"), "password": self.key("ADMIN_PASSWORD")}
        token = client.post("/api/v1/auths/signin", json=account).raise_for_status().json()["token"]
        client.headers["Authorization"] = f"Bearer {token}"
        return client

    def supervisor(self) -> int:
        """The process of supervisord."""
        return int((self.folder / ".serve" / "supervisord.pid").read_text())

    def is_healthy(self) -> bool:
        """Whether `make status` finds that everything answers."""
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
    """Copy the files that git knows, as they are now, and the models, prepared data and environments."""
    listed = run(ROOT, "git", "ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0")
    kept = [name for name in listed if name and (ROOT / name).is_file()]
    for name in kept:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    for name in ("models", "data/prepared"):
        shutil.copytree(ROOT / name, folder / name, dirs_exist_ok=True)
    (folder / ".serve").mkdir()
    for name in PROGRAMS:
        (folder / ".serve" / name).symlink_to(ROOT / ".serve" / name)
    run(folder, "git", "init", "--quiet")
    commit(folder, "copy")
    return folder


def require() -> None:
    """Skip without a model, or without the environments that serve it."""
    default()  # the tests ask what its rows teach
    made = all((ROOT / ".serve" / name / ".made").exists() for name in PROGRAMS)
    if not made or not (ROOT / "models" / "awq").exists():
        missing("serving")


@contextmanager
def serving(folder: Path, *arguments: str, change: Callable[[Path], None] = lambda folder: None) -> Iterator[Served]:
    """Serve in a copy of this checkout, where `change` may change a file before; skip what the machine cannot run."""
    require()
    if not find_nginx():
        missing("nginx")
    checkout = Served(copy(folder))
    change(checkout.folder)
    try:
        checkout.serve(*arguments)
        yield checkout
    finally:
        checkout.tool("stop")


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A model of this checkout behind nginx, with a chat page."""
    with serving(tmp_path_factory.mktemp("served")) as checkout:
        yield checkout
