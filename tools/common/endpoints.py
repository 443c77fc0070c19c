"""Endpoints: the models that `make serve` started, where they answer, and whether they do.

`make serve` writes .serve/serving.json; `make status`, `make logs`, `make smoke` and `make bench-serve` read it.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import click

from stages.common import files
from tools import stop

HOME = Path(".serve")  # environments, sockets, chats and configuration of the servers
LOGS = Path("logs/serve")  # one log per program, when serving without containers
STATE = HOME / "serving.json"


class Endpoint(NamedTuple):
    """A served model.

    Attributes:
        name: the name that clients ask for.
        address: ends in /v1.
        folder: the model that the server loads.
        kind: base, adapter, merged or awq.
        rev: the git revision that it is of; None: the workspace.
        adapters: folders of LoRA adapters by the names under which they are served.
        base: where `name` is one of these adapters, the name of the model in `folder`.
    """

    name: str
    address: str
    folder: str
    kind: str
    rev: str | None
    adapters: dict[str, str]
    base: str | None = None

    @property
    def names(self) -> list[str]:
        """All names under which the server answers, the one of this model first."""
        return list(dict.fromkeys([self.name, *([self.base] if self.base else []), *self.adapters]))

    @property
    def adapter(self) -> Path | None:
        """The folder of the adapter, where this model is one."""
        return Path(self.adapters[self.name]) if self.base else None

    @property
    def port(self) -> str:
        """The port of the address."""
        return self.address.rpartition(":")[2].removesuffix("/v1")

    def is_up(self, key: str) -> bool:
        """Whether the server is healthy and lists this model."""
        import httpx

        try:
            health = httpx.get(f"{self.address.removesuffix('/v1')}/health", timeout=10)
            answer = httpx.get(f"{self.address}/models", headers={"Authorization": f"Bearer {key}"}, timeout=10)
        except httpx.TransportError:
            return False
        return (
            health.is_success and answer.is_success and self.name in [entry["id"] for entry in answer.json()["data"]]
        )


class ServeState(NamedTuple):
    """What one `make serve` started: `runtime` is local or docker, `webui` is the address of the chat page."""

    runtime: str
    webui: str
    endpoints: list[Endpoint]

    def webui_is_up(self) -> bool:
        """Whether the chat page answers."""
        import httpx

        try:
            return httpx.get(f"{self.webui}/health", timeout=10).is_success
        except httpx.TransportError:
            return False


def write_state(state: ServeState) -> None:
    """Write down what is served, for the commands that use the servers."""
    files.write_json(STATE, state._asdict() | {"endpoints": [one._asdict() for one in state.endpoints]})


def read_state() -> ServeState | None:
    """Read what the last `make serve` started, or None before the first one."""
    if not STATE.exists():
        return None
    facts: dict[str, Any] = json.loads(STATE.read_text(encoding="utf-8"))
    return ServeState(**facts | {"endpoints": [Endpoint(**one) for one in facts["endpoints"]]})


def require_state() -> ServeState:
    """Read what is served now.

    Raises:
        click.ClickException: nothing is served.
    """
    state = read_state()
    if state is None or (state.runtime == "local" and not is_running()):
        raise click.ClickException("nothing is served from this checkout; run `make serve` first")
    return state


def is_running() -> bool:
    """Whether servers run without containers in this checkout: supervisord holds a lock as long as it lives."""
    return any(one.stage == stop.SERVE for one in stop.running())
