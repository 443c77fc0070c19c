"""End what runs in this checkout, stages and servers, cleanly: train leaves a checkpoint first.

Sends SIGTERM to each, waits until it is gone, and kills what is not by then; containers, too, even where what started
them is gone. Run it with `make stop`, or with `python -m tools.stop`.
"""

import fcntl
import os
import signal
import subprocess
import time
from pathlib import Path

import click

FOLDER = Path(".scratch/running")
PROJECT = os.environ.get("COMPOSE_PROJECT_NAME", "lockstep")  # of docker/compose.yaml


@click.command(help=__doc__)
@click.option("--wait", default=60.0, show_default=True, help="Seconds until what still runs is killed.")
def main(wait: float) -> None:
    stages = {path: path.read_text(encoding="utf-8") for path in sorted(FOLDER.glob("*")) if is_held(path)}
    watched = {path.name for path in stages}
    unwatched = [name for name in containers() if name.rpartition("-")[2] not in watched]
    serving = services()
    if not stages and not unwatched and not serving:
        click.echo("nothing runs here")
    if serving:
        click.echo(f"stopping {', '.join(serving)}")
        docker("compose", "--project-name", PROJECT, "down", "--timeout", str(round(wait)))
    for name in unwatched:
        click.echo(f"stopping the container {name}, which no stage here waits for")
        docker("stop", "--time", str(round(wait)), name)
    for path, stage in stages.items():
        click.echo(f"stopping {stage} (process {path.name})")
        os.kill(int(path.name), signal.SIGTERM)
    end = time.monotonic() + wait
    for path, stage in stages.items():
        while is_held(path) and time.monotonic() < end:
            time.sleep(0.1)
        if is_held(path):
            kill(int(path.name))
            for name in containers():
                if name.endswith(f"-{path.name}"):
                    docker("rm", "--force", name)
        click.echo(f"{stage} has ended")


def is_held(path: Path) -> bool:
    """Whether the process that wrote the file lives; what a killed one left is removed."""
    try:
        with path.open("r+", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    path.unlink(missing_ok=True)
    return False


def kill(process: int) -> None:
    """Kill a process and all that it started."""
    children = Path(f"/proc/{process}/task/{process}/children")
    started = children.read_text(encoding="utf-8").split() if children.exists() else []
    for child in started:
        kill(int(child))
    try:
        os.kill(process, signal.SIGKILL)
    except ProcessLookupError:
        return


def containers(*filters: str) -> list[str]:
    """Name the containers that docker/run started in this checkout, or others; none where there is no engine."""
    chosen = [part for one in filters or (f"label=lockstep.home={Path.cwd()}",) for part in ("--filter", one)]
    return docker("ps", "--all", "--format", "{{.Names}}", *chosen).split()


def services() -> list[str]:
    """Name the containers in which something is served from this checkout."""
    place = Path("docker").absolute()
    return containers(
        f"label=com.docker.compose.project={PROJECT}", f"label=com.docker.compose.project.working_dir={place}"
    )


def docker(*arguments: str) -> str:
    """Ask the container engine, if there is one, and give what it prints."""
    try:
        return subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False).stdout
    except FileNotFoundError:
        return ""


if __name__ == "__main__":
    main()
