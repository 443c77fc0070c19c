"""The exact messages of serve, status, logs and smoke; other tests match only key and command."""

import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from stage_runs import DEFAULTS, ROOT, fail_in

from tools import logs, status
from tools.common.endpoints import Endpoint
from tools.serve import __main__ as serve
from tools.serve import compose, local, snapshot
from tools.serve.params import load_serve_params
from tools.serve.proof import Model
from tools.serve.vllm_command import find_vllm
from tools.serve.webui import webui_program
from tools.smoke import __main__ as smoke

PARAMS = load_serve_params(DEFAULTS)[0]
TWO = PARAMS.model_copy(update={"replicas": 2})
ONE = Endpoint("lockstep-awq-1a2b3c4d", "http://127.0.0.1:8000/v1", "models/awq", "awq", None, {})
OTHER = ONE._replace(name="lockstep-merged-5e6f7a8b")
HERE = {"BIND": "127.0.0.1", "WEBUI_PORT": "3000", "API_KEY": "key", "WEBUI_SECRET_KEY": "secret"}
PROBLEM = "models/awq: its md5 is 2, in dvc.lock 1; run `make repro` to restore it"
MODEL = Model("awq", Path("models/awq"), None, "1a2b3c4d5e", [PROBLEM])


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout without models, servers or nginx."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(local, "find_nginx", lambda: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("VLLM_VENV", "/nowhere")
    shutil.copytree(ROOT / "docker", "docker")
    shutil.copyfile(DEFAULTS, "params.yaml")
    return tmp_path


CALLS: dict[str, tuple[Callable[[], Any], str]] = {
    "unknown model": (
        lambda: serve.parse_models("awk", None),
        "awk: not a model; use one of base, adapter, merged, awq",
    ),
    "no model after a comma": (
        lambda: serve.parse_models("awq,", None),
        "awq,: not a model; use one of base, adapter, merged, awq",
    ),
    "one model twice": (
        lambda: serve.parse_models("awq,awq", None),
        "awq,awq: a model is named twice; name it once",
    ),
    "not proven": (
        lambda: serve.require_proven(MODEL, False),
        f"awq is not proven, and is not served:\n{PROBLEM}\n`FORCE=1` serves it as lockstep-awq-1a2b3c4d-unproven",
    ),
    "no nginx": (
        lambda: local.list_programs(PARAMS, HERE, [ONE], alone=True),
        "nginx: not installed; run `apt install nginx`",
    ),
    "no vLLM": (
        find_vllm,
        "/nowhere/bin/vllm: vLLM is not installed; `make serve` installs it",
    ),
    "no Open WebUI": (
        lambda: webui_program({}, Path("page.sock"), None),
        "HERE/.serve/webui/bin/open-webui: Open WebUI is not installed; `make serve` installs it",
    ),
    "replicas that each take all GPUs": (
        lambda: compose.up(TWO, {}, [ONE], has_gpu=True),
        "serve.replicas: each container takes all GPUs; set it to 1, and share the GPUs with "
        "serve.vllm.tensor_parallel_size",
    ),
    "no Docker": (
        lambda: compose.up(PARAMS, {}, [ONE], has_gpu=False),
        "docker: command not found; `make serve RUNTIME=local` serves without containers",
    ),
    "one of several": (
        lambda: smoke.choose([ONE, OTHER], None),
        "lockstep-awq-1a2b3c4d, lockstep-merged-5e6f7a8b are served; name one, for example "
        "`make smoke NAME=lockstep-awq-1a2b3c4d`",
    ),
}


@pytest.mark.parametrize("case", CALLS)
def test_messages(bare: Path, case: str) -> None:
    call, message = CALLS[case]
    with pytest.raises(click.ClickException) as raised:
        call()
    assert raised.value.message.replace(str(bare), "HERE") == message


@pytest.mark.slow
def test_a_revision_that_the_cache_lacks(bare: Path) -> None:
    with pytest.raises(click.ClickException) as raised:
        snapshot.take(Model("awq", Path("models/awq"), "v1", "0" * 32))
    command = "git checkout v1 && dvc fetch models/awq && git checkout -"
    assert raised.value.message == f"models/awq at v1: not in the DVC cache; run `{command}` first"


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (smoke.main, "nothing is served from this checkout; run `make serve` first"),
        (status.main, "nothing is served from this checkout; run `make serve` first"),
        (logs.main, "logs/serve: no logs; run `make serve` first"),
        (serve.main, "dvc.lock: models/awq is not in it; run `make repro` first"),
    ],
)
def test_messages_before_the_first_start(bare: Path, command: click.Command, message: str) -> None:
    assert fail_in(bare, command) == message


def test_a_path_that_is_too_long_for_a_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / ("x" * 100)
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(local, "find_nginx", lambda: "/usr/sbin/nginx")
    with pytest.raises(click.ClickException) as raised:
        local.list_programs(PARAMS, HERE, [ONE], alone=True)
    path = Path(os.fspath(folder), ".serve", f"{ONE.port}-1.sock")
    assert raised.value.message == f"{path}: too long for a socket; move the checkout to a shorter path"


def test_a_taken_port() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(click.ClickException) as raised:
            local.require_free_ports("127.0.0.1", [("API_PORT", port)])
    assert raised.value.message == (
        f"127.0.0.1:{port}: cannot listen there (Address already in use); "
        f"`ss -ltnp sport = :{port}` shows which program does; or set API_PORT in .env"
    )
