"""Serve a proven model: a chat page and an OpenAI-compatible endpoint.

Refuses a model whose bytes differ from dvc.lock, a stale pipeline and a failed gate, each with the next command;
--force serves the model anyway, under a name that ends in -unproven. Starts everything, waits until it answers,
prints the addresses, and leaves it running until `make stop`. Settings are in params `serve`, secrets and ports in
.env. Run it with `make serve`, for example `make serve MODEL=merged`, `make serve REV=v1.2` or `make serve
MODELS=awq,awq@v1.2`, or with `python -m tools.serve`.
"""

import dataclasses
import runpy
from pathlib import Path

import click

from stages.eval.vllm_server import require_kernels
from tools.common import repository
from tools.common.endpoints import Endpoint, ServeState, is_running, write_state
from tools.common.serve_secrets import load_secrets
from tools.serve import compose, local, snapshot
from tools.serve.params import KINDS, load_serve_params
from tools.serve.proof import Model, examine, examine_folder
from tools.serve.vllm_command import require_servable


@click.command(help=__doc__)
@click.option("--model", help="base, adapter, merged or awq.  [default: serve.model in params.yaml]")
@click.option("--models", help="Several side by side: a list with commas, each MODEL or MODEL@REVISION.")
@click.option("--rev", help="A git revision: serve its model from DVC's cache, not the workspace's.")
@click.option("--runtime", type=click.Choice(["local", "docker"]), help="[default: as docker/run chooses]")
@click.option(
    "--force",
    is_flag=True,
    help="Serve a model that is not proven, or with settings that are not known to be safe, and mark its name.",
)
def main(model: str | None, models: str | None, rev: str | None, runtime: str | None, force: bool) -> None:
    # Params
    params, unsafe = load_serve_params(Path("params.yaml"), force)
    requested = parse_models(models or model or params.model, rev)
    machine = runpy.run_path("docker/runtime.py")
    runtime, has_gpu = runtime or machine["choose"]()[0], machine["has_gpu"]()
    if is_running():
        raise click.ClickException("a model is already served from this checkout; run `make stop` first")

    # Inputs
    bases = {revision: examine("base", revision) for kind, revision in requested if kind == "adapter"}
    chosen = []
    for kind, revision in requested:
        found = [*unsafe, *(bases[revision].problems if kind == "adapter" else [])]
        chosen.append(require_proven(with_problems(examine(kind, revision), found), force))
    names = [*(one.name for one in chosen), *{one.name for one in bases.values()}]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise click.ClickException(
            f"{', '.join(repeated)}: would be served twice; name one of the models with these bytes (an adapter "
            "brings its base)"
        )
    adapters = [
        require_proven(with_problems(examine_folder(Path(folder)), unsafe), force) for folder in params.adapters
    ]
    settings = load_secrets()
    ports = [int(settings["API_PORT"]) + number for number in range(len(chosen))]
    if runtime == "local":
        used = [("WEBUI_PORT", int(settings["WEBUI_PORT"])), *(("API_PORT", port) for port in ports)]
        local.require_free_ports(settings["BIND"], used)

    # Work
    snapshot.clear()
    folders = {one.name: str(snapshot.take(one)) for one in adapters}
    host = "127.0.0.1" if settings["BIND"] == "0.0.0.0" else settings["BIND"]
    endpoints = [
        endpoint(one, bases[revision] if one.kind == "adapter" else None, f"http://{host}:{port}/v1", folders)
        for one, (_, revision), port in zip(chosen, requested, ports, strict=True)
    ]
    for one in [] if has_gpu else endpoints:
        require_kernels(Path(one.folder))
    state = ServeState(runtime, f"http://127.0.0.1:{settings['WEBUI_PORT']}", endpoints)
    write_state(state)
    if runtime == "docker":
        compose.up(params, settings, endpoints, has_gpu)
    else:
        local.up(params, settings, state, has_gpu)

    # Outputs
    for one in endpoints:
        click.echo("\n".join(f"{name:32} {one.address}" for name in one.names))
    click.echo(f"{'chat page':32} {state.webui}")
    click.echo("`make status SECRETS=1` prints the key and the account; `make stop` ends the servers")


def parse_models(text: str, rev: str | None) -> list[tuple[str, str | None]]:
    """Read the models to serve, each with its revision.

    Raises:
        click.ClickException: an unknown model, or one that is named twice.
    """
    found = []
    for word in text.split(","):
        kind, at, own = word.strip().partition("@")
        if kind not in KINDS:
            raise click.ClickException(f"{kind or text}: not a model; use one of {', '.join(KINDS)}")
        found.append((kind, own if at else rev))
    if len(set(found)) < len(found):
        raise click.ClickException(f"{text}: a model is named twice; name it once")
    return found


def with_problems(model: Model, found: list[str]) -> Model:
    """Add problems to a model: those of its base, and settings that are not known to be safe."""
    return dataclasses.replace(model, problems=list(dict.fromkeys([*model.problems, *found])))


def require_proven(model: Model, force: bool) -> Model:
    """Return a proven model. With --force return any model, and print its problems.

    Raises:
        click.ClickException: the model is not proven.
    """
    if model.problems and not force:
        lines = "\n".join(model.problems)
        raise click.ClickException(
            f"{model.kind} is not proven, and is not served:\n{lines}\n`FORCE=1` serves it as {model.name}"
        )
    for problem in model.problems:
        click.echo(f"note: {problem}", err=True)
    if model.rev is None and repository.git("status", "--porcelain", "--", "dvc.lock"):
        click.echo(
            f"note: dvc.lock is not committed; until it is, `make lineage NAME={model.name}` finds nothing", err=True
        )
    return model


def endpoint(model: Model, base: Model | None, address: str, adapters: dict[str, str]) -> Endpoint:
    """Take a snapshot of a model.

    Args:
        model: what to serve.
        base: what it is applied to, if it is an adapter.
        address: where it will answer.
        adapters: folders of further adapters by their names.

    Raises:
        click.ClickException: the snapshot fails, or vLLM does not serve such an adapter.
    """
    folder = snapshot.take(model)
    if base is None:
        return Endpoint(model.name, address, str(folder), model.kind, model.rev, adapters)
    require_servable(folder)
    served, own = snapshot.take(base), {model.name: str(folder)}
    return Endpoint(model.name, address, str(served), model.kind, model.rev, own | adapters, base.name)


if __name__ == "__main__":
    main()
