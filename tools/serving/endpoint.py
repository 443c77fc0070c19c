"""Endpoint: a model that is served, where it answers, and whether it does."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from stages.common import files
from tools.serving import supervision

if TYPE_CHECKING:
    from tools.serving.proof import Model

STATE = Path(".serve/serving.json")


class Endpoint(NamedTuple):
    """A model at an address that ends in /v1, and what it was made of."""

    name: str
    address: str
    folder: str
    kind: str
    rev: str | None
    adapters: dict[str, str]  # name: folder

    def is_up(self, key: str) -> bool:
        """Whether the server is well and lists this very model."""
        import httpx

        try:
            health = httpx.get(f"{self.address.removesuffix('/v1')}/health", timeout=10)
            answer = httpx.get(f"{self.address}/models", headers={"Authorization": f"Bearer {key}"}, timeout=10)
        except httpx.TransportError:
            return False
        return (
            health.is_success and answer.is_success and self.name in [entry["id"] for entry in answer.json()["data"]]
        )


class Serving(NamedTuple):
    """All that `make serve` started."""

    runtime: str
    page: str
    endpoints: list[Endpoint]


def of_model(model: "Model", folder: Path, bind: str, port: int, adapters: dict[str, Path]) -> Endpoint:
    """Name the place where a model is served."""
    address = f"http://{'127.0.0.1' if bind == '0.0.0.0' else bind}:{port}/v1"
    named = {name: str(path) for name, path in adapters.items()}
    return Endpoint(model.name, address, str(folder), model.kind, model.rev, named)


def record(serving: Serving) -> None:
    """Write down what is served, for `make status` and `make smoke`."""
    files.write_json(STATE, serving._asdict() | {"endpoints": [one._asdict() for one in serving.endpoints]})


def recorded() -> Serving:
    """Read what the last `make serve` started."""
    facts: dict[str, Any] = json.loads(STATE.read_text(encoding="utf-8"))
    return Serving(**facts | {"endpoints": [Endpoint(**one) for one in facts["endpoints"]]})


def serving() -> Serving:
    """Read what is served.

    Raises:
        click.ClickException: nothing is.
    """
    found = recorded() if STATE.exists() else None
    if found is None or (found.runtime == "local" and not supervision.is_running()):
        raise click.ClickException("nothing is served from this checkout; run `make serve` first")
    return found


def page_is_up(address: str) -> bool:
    """Whether the page is there."""
    import httpx

    try:
        return httpx.get(f"{address}/health", timeout=10).is_success
    except httpx.TransportError:
        return False
