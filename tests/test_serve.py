"""`make serve` before anything starts: what may be wished for, and what stands in the way."""

import socket
from pathlib import Path

import pytest
from conftest import ROOT, fail_in

from tools import serve
from tools.serving import compose, door, engine, host, proof
from tools.serving.endpoint import Endpoint


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model", "awk"], "awk: no model; it is one of base, merged, awq"),
        (["--models", "awq,awq"], "awq,awq: one of them stands there twice"),
        (["--models", "awq,"], "awq,: no model; it is one of base, merged, awq"),
        (["--rev", "no-such"], "git log: fatal: bad revision 'no-such'"),
    ],
)
def test_a_wrong_wish_is_one_line(proven: Path, options: list[str], message: str) -> None:
    assert fail_in(proven, serve.main, *options).startswith(message)


def test_models_side_by_side_may_be_of_two_revisions() -> None:
    assert serve.wishes("awq,merged@v1, awq@v1", None) == [("awq", None), ("merged", "v1"), ("awq", "v1")]
    assert serve.wishes("awq,awq@v1", "v2") == [("awq", "v2"), ("awq", "v1")]


def test_the_same_bytes_are_served_once(proven: Path) -> None:
    name = proof.examine("awq", None).name
    assert fail_in(proven, serve.main, "--models", "awq,awq@HEAD") == f"{name}: the same bytes twice; name it once"


def test_a_port_that_is_no_number_is_refused(proven: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEBUI_PORT", "http")
    assert fail_in(proven, serve.main) == ".env: WEBUI_PORT: must be a number (got 'http')"


def test_a_taken_port_is_refused_with_its_key(proven: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setenv("API_PORT", str(port))
        message = fail_in(proven, serve.main)
    assert message == (
        f"127.0.0.1:{port}: cannot be listened on (Address already in use); "
        f"`ss -ltnp sport = :{port}` shows by what; or set API_PORT in .env"
    )


def test_without_nginx_nothing_is_published(proven: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "nginx", lambda: None)
    one = Endpoint("lockstep-awq-1a2b3c4d", "http://127.0.0.1:8000/v1", "models/awq", "awq", None, {})
    config = engine.load(ROOT / "params.yaml")
    with pytest.raises(Exception, match=r"^BIND in [.]env: needs nginx"):
        host.parts(config, {"BIND": "0.0.0.0"}, [one])
    with pytest.raises(Exception, match=r"^serve[.]replicas: needs nginx"):
        host.parts(config.model_copy(update={"replicas": 2}), {"BIND": "127.0.0.1"}, [one])


def test_containers_that_would_each_take_all_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compose, "has_gpu", lambda: True)
    with pytest.raises(Exception, match=r"serve\.replicas: each container takes all GPUs"):
        compose.up(engine.load(ROOT / "params.yaml").model_copy(update={"replicas": 2}), [])
