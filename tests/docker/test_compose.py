"""docker/compose.yaml: the configuration of every profile, and the services of the one for machines without a GPU."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from needs import servable

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "docker" / ".env.example"
SECRETS = {"API_KEY": "key", "ADMIN_EMAIL": "admin@localhost", "ADMIN_PASSWORD": "word", "WEBUI_SECRET_KEY": "secret"}
PORTS = {"API_PORT": "18000", "WEBUI_PORT": "13000", "TENSORBOARD_PORT": "16006"}
VLLM = "--served-model-name awq --load-format safetensors --disable-fastapi-docs --enforce-eager --max-model-len 256"
VLLM += " --middleware request_limits.RequestLimits"
LIMITS = {
    "answers": 8,
    "requests": 64,
    "seconds": 60,
    "places": 48,
    "prompt_logprobs": True,
    "user_key": "key of the page",
}
Compose = Callable[..., "subprocess.CompletedProcess[str]"]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def compose(engine: None, tmp_path_factory: pytest.TempPathFactory) -> Compose:
    """Run `docker compose` on a project of its own: `compose("up", "--wait", profile="cpu", MODEL_FOLDER=...)`."""
    settings = {**SECRETS, **PORTS, "MODEL_FOLDER": "/model", "SERVED_NAME": "awq", "PWD": str(ROOT)}
    settings |= {"USER_KEY": "key of the page", "REQUEST_LIMITS": json.dumps(LIMITS)}

    def compose(*words: str, profile: str = "cpu", **variables: str) -> "subprocess.CompletedProcess[str]":
        line = ["docker", "compose", "-p", "lockstep-test", "-f", str(ROOT / "docker" / "compose.yaml")]
        line += ["--env-file", str(EXAMPLE), "--profile", profile, *words]
        return subprocess.run(line, env=os.environ | settings | variables, capture_output=True, text=True)

    return compose


@pytest.mark.parametrize("profile", ["cpu", "gpu", "tools"])
def test_every_service_is_hardened_and_published_only_to_this_machine(compose: Compose, profile: str) -> None:
    done = compose("config", "--format", "json", profile=profile)
    assert done.returncode == 0, done.stderr
    services: dict[str, Any] = json.loads(done.stdout)["services"]
    assert services
    for name, service in services.items():
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["read_only"] is True, name
        assert service["logging"]["options"] == {"max-size": "10m", "max-file": "3"}, name
        assert {port["host_ip"] for port in service.get("ports", [])} <= {"127.0.0.1"}, name
        assert ":" in service["image"] or service["pull_policy"] == "never", name
        if profile != "tools":
            assert service["healthcheck"]["test"], name
            assert service["restart"] == "unless-stopped", name
    if profile == "gpu":
        assert {"vllm", "proxy", "open-webui", "page", "dozzle", "socket-proxy", "tensorboard"} == set(services)
        assert services["socket-proxy"]["networks"].keys() == {"engine"}
        joined = {name for name, one in services.items() if "engine" in one.get("networks", ())}
        assert joined == {"dozzle", "socket-proxy"}
        assert services["vllm"]["deploy"]["resources"]["reservations"]["devices"][0]["driver"] == "nvidia"


@pytest.mark.parametrize("secret", SECRETS)
def test_without_a_secret_nothing_starts(compose: Compose, secret: str) -> None:
    done = compose("config", "--quiet", **{secret: ""})
    assert done.returncode != 0
    assert f"required variable {secret} is missing a value" in done.stderr


@pytest.fixture(scope="module")
def up(compose: Compose, awq: Path) -> Iterator[Compose]:
    """The profile `cpu`, healthy, with a model and short logs."""
    targets = ("trainer", "vllm", "open-webui", "proxy")
    subprocess.run([sys.executable, str(ROOT / "docker" / "image.py"), *targets], check=True, stdout=subprocess.PIPE)
    (ROOT / "logs").mkdir(exist_ok=True)

    def started(*words: str, profile: str = "cpu", **variables: str) -> "subprocess.CompletedProcess[str]":
        given = {"MODEL_FOLDER": str(awq.with_name(servable())), "VLLM_ARGS": VLLM, "LOG_SIZE": "2k"}
        return compose(*words, profile=profile, **given, **variables)

    started("down", "--volumes", profile="*")
    done = started("up", "--detach", "--wait", "--wait-timeout", "600")
    logs = started("logs", "--tail", "30").stdout
    assert done.returncode == 0, done.stderr + logs
    yield started
    started("down", "--volumes", "--timeout", "5", profile="*")


@pytest.fixture
def api() -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"http://127.0.0.1:{PORTS['API_PORT']}", timeout=60, trust_env=False) as client:
        yield client


@pytest.fixture
def webui() -> Iterator[httpx.Client]:
    """The chat page, signed in."""
    with httpx.Client(base_url=f"http://127.0.0.1:{PORTS['WEBUI_PORT']}", timeout=60, trust_env=False) as client:
        words = {"email": SECRETS["ADMIN_EMAIL"], "password": SECRETS["ADMIN_PASSWORD"]}
        answer = client.post("/api/v1/auths/signin", json=words)
        client.headers["Authorization"] = f"Bearer {answer.raise_for_status().json()['token']}"
        yield client


def test_the_api_answers_to_the_key_and_only_on_the_named_paths(up: Compose, api: httpx.Client) -> None:
    wish = {"model": "awq", "messages": [{"role": "user", "content": "apple"}], "max_tokens": 4}
    assert api.post("/v1/chat/completions", json=wish).status_code == 401
    assert api.get("/metrics").status_code == 404
    assert api.get("/health").status_code == 200
    api.headers["Authorization"] = f"Bearer {SECRETS['API_KEY']}"
    assert [model["id"] for model in api.get("/v1/models").json()["data"]] == ["awq"]
    answer = api.post("/v1/chat/completions", json=wish)
    assert answer.json()["usage"]["completion_tokens"] >= 1
    wish = {"model": "awq", "prompt": "apple", "max_tokens": 4, "logprobs": 2, "prompt_logprobs": 0}
    assert api.post("/v1/completions", json=wish).status_code == 200  # it must not need a compiler
    assert api.post("/v1/completions", json=wish | {"n": 9}).status_code == 400


def test_no_service_reaches_another_machine(up: Compose, outside: tuple[str, int], images: dict[str, str]) -> None:
    code = f"import socket; socket.create_connection({outside}, timeout=3)"
    # An ordinary container reaches it, so there is a route.
    line = ["docker", "run", "--rm", images["trainer"], "python", "-c", code]
    deadline = time.monotonic() + 30
    while subprocess.run(line, capture_output=True).returncode:
        assert time.monotonic() < deadline
    for service in ("vllm-cpu", "proxy", "open-webui", "page", "tensorboard"):
        done = up("exec", "-T", service, "python3", "-c", code)
        assert done.returncode == 1, service
        assert "Network is unreachable" in done.stderr or "timed out" in done.stderr, service


def test_a_restart_keeps_chats(up: Compose, webui: httpx.Client) -> None:
    assert "awq" in [model["id"] for model in webui.get("/api/models").raise_for_status().json()["data"]]
    made = webui.post("/api/v1/chats/new", json={"chat": {"title": "kept", "messages": []}}).raise_for_status().json()
    assert up("rm", "--stop", "--force", "open-webui").returncode == 0
    done = up("up", "--detach", "--wait", "--wait-timeout", "600")
    assert done.returncode == 0, done.stderr
    assert webui.get(f"/api/v1/chats/{made['id']}").raise_for_status().json()["title"] == "kept"


def test_a_full_log_is_rotated_and_the_last_three_are_kept(up: Compose, api: httpx.Client) -> None:
    container = up("ps", "--quiet", "vllm-cpu").stdout.strip()
    form = "{{.LogPath}}"
    shown = subprocess.run(["docker", "inspect", "--format", form, container], capture_output=True, text=True)
    log = Path(shown.stdout.strip())
    if not os.access(log.parent, os.R_OK):
        pytest.skip("not root: run `sudo .ci/engine make test ARGS=tests/docker/test_compose.py`")
    for _ in range(60):
        api.get("/v1/models")
    files = sorted(log.parent.glob(f"{log.name}*"))
    assert len(files) == 3
    assert max(file.stat().st_size for file in files) < 4000


def test_the_socket_proxy_answers_questions_and_refuses_changes(up: Compose) -> None:
    socket = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock").removeprefix("unix://")
    given = {"DOCKER_SOCKET": socket, "DOCKER_GID": str(Path(socket).stat().st_gid)}
    done = up("up", "--detach", "--wait", "socket-proxy", profile="logs", **given)
    assert done.returncode == 0, done.stderr
    code = (
        "import sys, urllib.request as u, urllib.error\n"
        "request = u.Request('http://127.0.0.1:2375' + sys.argv[2], method=sys.argv[1])\n"
        "try: print(u.urlopen(request, timeout=10).status)\n"
        "except urllib.error.HTTPError as error: print(error.code)\n"
    )
    container = up("ps", "--quiet", "vllm-cpu").stdout.strip()
    asked = {
        ("GET", "/containers/json"): "200",
        ("GET", f"/v1.41/containers/{container}/logs?stdout=1&tail=1"): "200",
        ("POST", f"/containers/{container}/stop"): "403",
        ("POST", "/containers/create"): "403",
        ("GET", f"/containers/{container}/archive?path=/"): "403",
        ("GET", "/images/json"): "403",
        ("DELETE", f"/containers/{container}/logs"): "403",
        ("GET", "/containers/json/../../images/json"): "403",
    }
    for (method, path), status in asked.items():
        line = ("exec", "-T", "socket-proxy", "python3", "-c", code, method, path)
        assert up(*line, profile="logs", **given).stdout.strip() == status, (method, path)
    # A chat page or a vLLM that someone has taken over cannot ask it for the logs of the others.
    code = "import socket; socket.create_connection(('socket-proxy', 2375), timeout=5)"
    for service in ("vllm-cpu", "open-webui", "proxy"):
        done = up("exec", "-T", service, "python3", "-c", code)
        assert done.returncode == 1, service
        assert "gaierror" in done.stderr, done.stderr
