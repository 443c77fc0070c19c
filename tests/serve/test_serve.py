"""`make serve` before anything starts: the models to serve, and what stands in the way."""

import fcntl
from pathlib import Path

import pytest
from stage_runs import fail_in

from tools import stop
from tools.serve import __main__ as serve
from tools.serve.proof import examine


def test_models_side_by_side_may_be_of_two_revisions() -> None:
    assert serve.parse_models("awq,merged@v1, awq@v1", None) == [("awq", None), ("merged", "v1"), ("awq", "v1")]
    assert serve.parse_models("awq,awq@v1", "v2") == [("awq", "v2"), ("awq", "v1")]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model", "awk"], "awk: not a model"),
        (["--rev", "no-such"], "no-such: no commit here has this name"),
    ],
)
def test_an_unknown_model_or_revision_is_one_line(proven: Path, options: list[str], message: str) -> None:
    assert fail_in(proven, serve.main, *options).startswith(message)


@pytest.mark.slow
def test_the_same_bytes_are_served_once(proven: Path) -> None:
    name = examine("awq", None).name
    message = fail_in(proven, serve.main, "--models", "awq,awq@HEAD")
    why = "would be served twice; name one of the models with these bytes (an adapter brings its base)"
    assert message == f"{name}: {why}"
    message = fail_in(proven, serve.main, "--models", "adapter,base")
    assert message == f"{examine('base', None).name}: {why}"


@pytest.mark.slow
def test_a_port_must_be_a_number(proven: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEBUI_PORT", "http")
    message = fail_in(proven, serve.main)
    assert message == ".env: WEBUI_PORT: must be a number (got 'http'); correct it there or in the environment"


@pytest.mark.slow
def test_a_checkout_serves_once_at_a_time(proven: Path) -> None:
    stop.FOLDER.mkdir(parents=True)
    with (stop.FOLDER / "1").open("w", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write("serve")
        file.flush()
        message = fail_in(proven, serve.main)
    assert message == "a model is already served from this checkout; run `make stop` first"
