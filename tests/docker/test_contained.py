"""`make serve RUNTIME=docker`, from start to stop, on the model of this checkout."""

import json
import subprocess
from collections.abc import Iterator

import httpx
import pytest
from serving import Served, copy, free_port, require

from tools.serving import viewer


@pytest.fixture(scope="module")
def contained(engine: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A copy of this checkout that serves in containers of its own."""
    require()
    checkout = Served(copy(tmp_path_factory.mktemp("contained")))
    checkout.variables |= {"COMPOSE_PROJECT_NAME": "lockstep-contained", "TENSORBOARD_PORT": str(free_port())}
    try:
        checkout.serve("--runtime", "docker")
        yield checkout
    finally:
        checkout.tool("stop")
        subprocess.run(["docker", "volume", "rm", "lockstep-contained_chats"], capture_output=True)


def containers() -> list[str]:
    line = ["docker", "ps", "--all", "--format", "{{.Names}}", "--filter", "name=lockstep-contained-"]
    return subprocess.run(line, capture_output=True, text=True, check=True).stdout.split()


def test_the_model_answers_by_its_name_and_the_page_is_up(contained: Served) -> None:
    done = contained.tool("status")
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("healthy") == 2
    serving = json.loads((contained.folder / ".serve" / "serving.json").read_text(encoding="utf-8"))
    (endpoint,) = serving["endpoints"]
    question = {"model": endpoint["name"], "messages": [{"role": "user", "content": "What comes after Thursday?"}]}
    key = {"Authorization": f"Bearer {contained.key()}"}
    answer = httpx.post(f"{endpoint['address']}/chat/completions", json=question, headers=key, timeout=60)
    assert answer.json()["choices"][0]["message"]["content"] == "Friday"


def test_logs_are_shown(contained: Served) -> None:
    done = contained.tool("logs", "--no-follow")
    assert done.returncode == 0, done.stderr
    assert "vllm-cpu-1" in done.stdout
    assert "open-webui-1" in done.stdout


def test_the_viewer_of_logs_has_the_account_of_the_page(contained: Served) -> None:
    path = contained.folder / viewer.ACCOUNTS
    assert path.stat().st_mode & 0o077 == 0
    account = json.loads(path.read_text(encoding="utf-8"))["users"][contained.key("ADMIN_EMAIL")]
    code = "import bcrypt, sys; sys.exit(not bcrypt.checkpw(*sys.stdin.buffer.read().split()))"
    line = ["docker", "run", "--rm", "--interactive", viewer.IMAGE, "python", "-c", code]
    for password, status in ((contained.key("ADMIN_PASSWORD"), 0), ("another", 1)):
        assert subprocess.run(line, input=f"{password} {account['password']}".encode()).returncode == status


def test_make_stop_leaves_nothing_but_the_chats(contained: Served) -> None:
    assert len(containers()) == 4
    done = contained.tool("stop")
    assert done.returncode == 0, done.stderr
    assert "stopping lockstep-contained-" in done.stdout
    assert containers() == []
    volumes = subprocess.run(["docker", "volume", "ls", "--quiet"], capture_output=True, text=True, check=True)
    assert "lockstep-contained_chats" in volumes.stdout.split()
    assert contained.tool("stop").stdout == "nothing runs here\n"
