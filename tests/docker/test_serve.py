"""`make serve RUNTIME=docker` with two models of this checkout, from start to stop."""

import json
import subprocess
from collections.abc import Iterator

import httpx
import pytest
from needs import servable
from serving import Served, copy, free_port, require

from tools.serve import dozzle

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def contained(engine: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A copy of this checkout that serves in containers of its own."""
    require()
    checkout = Served(copy(tmp_path_factory.mktemp("contained")))
    checkout.variables |= {"COMPOSE_PROJECT_NAME": "lockstep-contained", "TENSORBOARD_PORT": str(free_port())}
    try:
        checkout.serve("--runtime", "docker", "--models", f"{servable()},base")
        yield checkout
    finally:
        checkout.tool("stop")
        subprocess.run(["docker", "volume", "rm", "lockstep-contained_chats"], capture_output=True)


def containers() -> list[str]:
    line = ["docker", "ps", "--all", "--format", "{{.Names}}", "--filter", "name=lockstep-contained-"]
    return subprocess.run(line, capture_output=True, text=True, check=True).stdout.split()


def test_the_models_answer_to_their_names_and_the_chat_page_is_up(contained: Served) -> None:
    assert contained.tool("status").stdout.count("healthy") == 3
    key = {"Authorization": f"Bearer {contained.key()}"}
    answers = []
    for endpoint in contained.endpoints():
        question = {
            "model": endpoint["name"],
            "messages": [{"role": "user", "content": "What comes after Thursday?"}],
        }
        answer = httpx.post(f"{endpoint['address']}/chat/completions", json=question, headers=key, timeout=60)
        answers.append(answer.json()["choices"][0]["message"]["content"])
    assert answers[0] == "Friday" != answers[1]


def test_the_chat_page_shows_both_models(contained: Served) -> None:
    models = contained.webui().get("/api/models").json()["data"]
    assert {model["id"] for model in models} == {endpoint["name"] for endpoint in contained.endpoints()}


def test_only_this_machine_reaches_the_published_ports(contained: Served) -> None:
    line = ["docker", "ps", "--format", "{{.Ports}}", "--filter", "name=lockstep-contained-"]
    ports = subprocess.run(line, capture_output=True, text=True, check=True).stdout
    published = [port for port in ports.replace("\n", ", ").split(", ") if "->" in port]
    assert len(published) == 4
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_logs_are_shown(contained: Served) -> None:
    done = contained.tool("logs", "--no-follow")
    assert done.returncode == 0, done.stderr
    assert "vllm-cpu-1" in done.stdout
    assert "open-webui-1" in done.stdout


def test_dozzle_has_the_account_of_the_chat_page(contained: Served) -> None:
    path = contained.folder / dozzle.ACCOUNTS
    assert path.stat().st_mode & 0o077 == 0
    account = json.loads(path.read_text(encoding="utf-8"))["users"][contained.key("ADMIN_EMAIL")]
    code = "import bcrypt, sys; sys.exit(not bcrypt.checkpw(*sys.stdin.buffer.read().split()))"
    line = ["docker", "run", "--rm", "--interactive", dozzle.IMAGE, "python", "-c", code]
    for password, status in ((contained.key("ADMIN_PASSWORD"), 0), ("another", 1)):
        assert subprocess.run(line, input=f"{password} {account['password']}".encode()).returncode == status


def test_a_second_start_removes_the_servers_of_the_first(contained: Served) -> None:
    assert len(containers()) == 7
    contained.serve("--runtime", "docker", "--model", servable())
    assert len(containers()) == 5


def test_make_stop_leaves_only_the_chats(contained: Served) -> None:
    done = contained.tool("stop")
    assert done.returncode == 0, done.stderr
    assert "lockstep-contained-" in done.stdout
    assert containers() == []
    volumes = subprocess.run(["docker", "volume", "ls", "--quiet"], capture_output=True, text=True, check=True)
    assert "lockstep-contained_chats" in volumes.stdout.split()
    assert contained.tool("stop").returncode == 0
