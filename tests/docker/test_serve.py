"""`make serve RUNTIME=docker` with two models of this checkout, from start to stop."""

import json
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from needs import servable
from page_doors import REFUSED, require_no_way_around, require_refusal
from serving import Served, copy, free_port, require

from tools.common.serve_secrets import SECRETS
from tools.serve import dozzle

pytestmark = pytest.mark.slow
Address = tuple[str, int]
# Tries addresses, and prints the position of each one that answers.
PROBE = """
import json, socket, sys, threading

def probe(place, address):
    try:
        socket.create_connection(address, timeout=3).close()
    except OSError:
        return
    print(place, flush=True)

for place, address in enumerate(json.loads(sys.argv[1])):
    threading.Thread(target=probe, args=(place, tuple(address))).start()
"""


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


@pytest.fixture(scope="module")
def admin(contained: Served) -> httpx.Client:
    """The page's admin, who signs in once: the page counts sign-ins."""
    return contained.webui()


@pytest.mark.parametrize("case", REFUSED)
def test_the_admin_is_refused(admin: httpx.Client, case: str) -> None:
    require_refusal(admin, case)


def test_no_spelling_of_a_path_gets_past_nginx(contained: Served, admin: httpx.Client) -> None:
    require_no_way_around(contained, admin)


def inspect(service: str) -> dict[str, Any]:
    """What the engine knows of a service's container."""
    line = ["docker", "inspect", f"lockstep-contained-{service}-1"]
    return json.loads(subprocess.run(line, capture_output=True, text=True, check=True).stdout)[0]


def addresses(service: str, port: int) -> dict[str, Address]:
    """The name of a service, and its addresses on each of its networks."""
    networks = inspect(service)["NetworkSettings"]["Networks"]
    return {service: (service, port)} | {
        f"{service} on {name.removeprefix('lockstep-contained_')}": (one["IPAddress"], port)
        for name, one in networks.items()
    }


def answering(asked: dict[str, Address], *run: str) -> set[str]:
    """Which addresses answer to a program in a container, which `docker *run` starts."""
    line = ["docker", *run, "python3", "-c", PROBE, json.dumps(list(asked.values()))]
    done = subprocess.run(line, capture_output=True, text=True, check=True)
    return {list(asked)[int(place)] for place in done.stdout.split()}


@pytest.fixture
def logs(contained: Served) -> Iterator[None]:
    """The proxy of the engine, and a web server in Dozzle's place: Dozzle itself comes from another registry."""
    script = (
        '#!/bin/sh\\n[ -n "$1" ] || exec python3 -m http.server 8080\\n'  # with a word it is asked for its health
    )
    lines = [
        "FROM lockstep-proxy",
        "USER 0:0",
        f"RUN printf '{script}' >/dozzle && chmod 755 /dozzle",
        'CMD ["/dozzle"]',
    ]
    built = ["docker", "build", "--quiet", "--tag", "lockstep-contained-dozzle", "-"]
    subprocess.run(built, input="\n".join(lines), text=True, check=True, capture_output=True)
    socket = Path(os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock").removeprefix("unix://"))
    own = {"DOZZLE_IMAGE": "lockstep-contained-dozzle", "DOZZLE_PORT": str(free_port()), "DOCKER_SOCKET": str(socket)}
    own |= {"DOCKER_GID": str(socket.stat().st_gid), "RUN_AS": f"{os.getuid()}:{os.getgid()}"}
    unused = dict.fromkeys(("MODEL_FOLDER", "REQUEST_LIMITS", "SERVED_NAME", "USER_KEY"), "x")
    compose = ["docker", "compose", "-f", "docker/compose.yaml", "--env-file", ".env", "--profile", "logs"]

    def run(*words: str) -> None:
        variables = {name: value for name, value in contained.variables.items() if name not in SECRETS}
        variables |= unused | own | {"PWD": str(contained.folder)}
        done = subprocess.run([*compose, *words], cwd=contained.folder, env=variables, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    try:
        run("up", "--detach", "--wait", "--no-recreate", "socket-proxy", "dozzle")
        yield
    finally:
        run("rm", "--stop", "--force", "socket-proxy", "dozzle")
        subprocess.run(["docker", "image", "rm", "lockstep-contained-dozzle"], capture_output=True)


@pytest.fixture
def host_port() -> Iterator[int]:
    """A port of this machine that answers at every address of it, as many programs' do."""
    with socket.create_server(("0.0.0.0", 0)) as server:
        threading.Thread(target=accept, args=(server,), daemon=True).start()
        yield server.getsockname()[1]


def accept(server: socket.socket) -> None:
    while server.fileno() >= 0:
        try:
            server.accept()[0].close()
        except OSError:
            return


def this_machine(port: int) -> dict[str, Address]:
    """The addresses of this machine, and those that it would have on the networks of the page."""
    done = subprocess.run(["ip", "-4", "-json", "address"], capture_output=True, text=True, check=True)
    own = {one["local"] for link in json.loads(done.stdout) for one in link["addr_info"]} - {"127.0.0.1"}
    ways = {one["Gateway"] for one in inspect("open-webui")["NetworkSettings"]["Networks"].values()}
    return {f"this machine at {address}": (address, port) for address in own | ways if address}


@pytest.mark.parametrize("service", ["open-webui", "vllm-cpu"])
def test_a_program_that_someone_has_taken_over_reaches_nothing_else(
    contained: Served, logs: None, host_port: int, outside: Address, service: str
) -> None:
    run = ("exec", f"lockstep-contained-{service}-1")
    model, machine = addresses("vllm-cpu", 8000), this_machine(host_port) | {"another machine": outside}
    far = addresses("socket-proxy", 2375) | addresses("dozzle", 8080) | addresses("tensorboard", 6006) | machine
    far |= {"a name": ("pypi.org", 443), "what clouds tell": ("169.254.169.254", 80), "a server": ("1.1.1.1", 53)}
    assert answering(model | far, *run) == set(model)
    # To others these addresses answer.
    engine = addresses("socket-proxy", 2375)
    assert answering(engine, "exec", "lockstep-contained-dozzle-1") == set(engine)
    ordinary = answering(machine, "run", "--rm", "lockstep-proxy")
    assert "another machine" in ordinary
    assert len(ordinary) > 2


def test_each_container_knows_its_own_secrets(contained: Served) -> None:
    known = {"open-webui": {"API_KEY", "ADMIN_PASSWORD", "WEBUI_SECRET_KEY"}, "vllm-cpu": {"API_KEY"}}
    known["vllm-cpu-2"] = known["vllm-cpu"]
    for name in containers():
        service = name.removeprefix("lockstep-contained-").rpartition("-")[0]
        variables = json.dumps(inspect(service)["Config"])
        assert "of the shell" not in variables, service
        held = {one for one in ("API_KEY", "ADMIN_PASSWORD", "WEBUI_SECRET_KEY") if contained.key(one) in variables}
        assert held == known.get(service, set()), service


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
