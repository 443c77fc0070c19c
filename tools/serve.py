"""Serve a proven model: a chat page and an OpenAI-compatible endpoint.

Refuses a model whose bytes are not those of dvc.lock, a stale pipeline and a failed gate, each with the next command;
--force serves it all the same, under a name that ends in -unproven. Starts everything, waits until it answers, prints
the addresses, and leaves it running until `make stop`. Settings are in params `serve`, secrets and ports in .env. Run
it with `make serve`, such as `make serve MODEL=merged`, `make serve REV=v1.2` or `make serve MODELS=awq,awq@v1.2`, or
with `python -m tools.serve`.
"""

import runpy
from functools import partial
from pathlib import Path

import click

from tools.common import repository
from tools.serving import compose, door, endpoint, engine, host, keys, launch, proof, snapshot, supervision
from tools.serving.endpoint import Serving
from tools.serving.proof import Model


@click.command(help=__doc__)
@click.option("--model", help="base, merged or awq.  [default: serve.model in params.yaml]")
@click.option("--models", help="Several side by side: a list with commas, each MODEL or MODEL@REVISION.")
@click.option("--rev", help="A git revision: its model, out of DVC's cache, in place of the workspace's.")
@click.option("--runtime", type=click.Choice(["local", "docker"]), help="[default: as docker/run chooses]")
@click.option("--force", is_flag=True, help="Serve a model that is not proven, and mark it in its name.")
def main(model: str | None, models: str | None, rev: str | None, runtime: str | None, force: bool) -> None:
    # Params
    params = engine.load(Path("params.yaml"))
    wanted = wishes(models or model or params.model, rev)
    runtime = runtime or runpy.run_path("docker/runtime.py")["choose"]()[0]
    if supervision.is_running():
        raise click.ClickException("something is served from this checkout already; run `make stop` first")

    # Inputs
    chosen = [judged(proof.examine(kind, revision), force) for kind, revision in wanted]
    if same := {one.name for one in chosen if [other.name for other in chosen].count(one.name) > 1}:
        raise click.ClickException(f"{', '.join(sorted(same))}: the same bytes twice; name it once")
    adapters = [judged(proof.examine_folder(Path(folder)), force) for folder in params.adapters]
    settings = keys.load()
    ports = [int(settings["API_PORT"]) + place for place in range(len(chosen))]
    if runtime == "local":
        door.require_free(
            settings["BIND"], [("WEBUI_PORT", settings["WEBUI_PORT"]), *(("API_PORT", p) for p in ports)]
        )

    # Work
    snapshot.clear()
    taken = {one.name: snapshot.take(one) for one in adapters}
    found = [
        endpoint.of_model(one, snapshot.take(one), settings["BIND"], port, taken)
        for one, port in zip(chosen, ports, strict=True)
    ]
    serving = Serving(runtime, f"http://127.0.0.1:{settings['WEBUI_PORT']}", found)
    endpoint.record(serving)
    if runtime == "docker":
        compose.up(params, found)
    else:
        parts = host.parts(params, settings, found)
        launch.start(
            partial(supervision.start, parts, host.variables(params, settings, found), params), serving, settings
        )

    # Outputs
    for one in found:
        click.echo("\n".join(f"{name:32} {one.address}" for name in (one.name, *one.adapters)))
    click.echo(f"{'page':32} {serving.page}")
    click.echo("`make status SECRETS=1` prints the key and the account, `make stop` ends it")


def wishes(text: str, rev: str | None) -> list[tuple[str, str | None]]:
    """Read what shall be served: models with their revisions.

    Raises:
        click.ClickException: one is none of ours, or stands there twice.
    """
    found = []
    for word in text.split(","):
        kind, _, own = word.strip().partition("@")
        if kind not in engine.KINDS:
            raise click.ClickException(f"{kind or text}: no model; it is one of {', '.join(engine.KINDS)}")
        found.append((kind, own or rev))
    if len(set(found)) < len(found):
        raise click.ClickException(f"{text}: one of them stands there twice")
    return found


def judged(model: Model, force: bool) -> Model:
    """Refuse a model that there are doubts about, or tell of them where it is served all the same.

    Raises:
        click.ClickException: there are doubts.
    """
    if model.doubts and not force:
        lines = "\n".join(model.doubts)
        raise click.ClickException(
            f"{model.kind} is not proven, and is not served:\n{lines}\nFORCE=1 serves it as {model.name}"
        )
    for doubt in model.doubts:
        click.echo(f"note: {doubt}", err=True)
    if model.rev is None and repository.git("status", "--porcelain", "--", "dvc.lock"):
        click.echo(
            f"note: dvc.lock is not committed; until it is, `make lineage NAME={model.name}` finds nothing", err=True
        )
    return model


if __name__ == "__main__":
    main()
