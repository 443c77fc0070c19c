"""Stop the stages and servers of this checkout. Train saves a checkpoint first, from which it resumes.

Sends SIGTERM to each process, waits until it ends, and kills it after --wait seconds. Stops containers, too, also
those whose starting process is gone. Run it with `make stop`, or with `python -m tools.stop`.
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
@click.option("--wait", default=60.0, show_default=True, help="Seconds until a process that still runs is killed.")
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
        click.echo(f"stopping container {name}, which no stage waits for")
        docker("stop", "--time", str(round(wait)), name)
    for path, stage in stages.items():
        when = " after this step; run `make stop` again to stop now" if stage == "train" else ""
        click.echo(f"stopping {stage} (process {path.name}){when}")
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
    """Whether the process that wrote the file still runs; the file of a killed process is removed."""
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
    """Kill a process and its children."""
    children = Path(f"/proc/{process}/task/{process}/children")
    started = children.read_text(encoding="utf-8").split() if children.exists() else []
    for child in started:
        kill(int(child))
    try:
        os.kill(process, signal.SIGKILL)
    except ProcessLookupError:
        return


def containers(*filters: str) -> list[str]:
    """List the containers that docker/run started in this checkout, or those that match other filters."""
    chosen = [part for one in filters or (f"label=lockstep.home={Path.cwd()}",) for part in ("--filter", one)]
    return docker("ps", "--all", "--format", "{{.Names}}", *chosen).split()


def services() -> list[str]:
    """List the containers that serve from this checkout."""
    folder = Path("docker").absolute()
    return containers(
        f"label=com.docker.compose.project={PROJECT}", f"label=com.docker.compose.project.working_dir={folder}"
    )


def docker(*arguments: str) -> str:
    """Run a command of the container engine and return its output; empty where there is no engine."""
    try:
        return subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False).stdout
    except FileNotFoundError:
        return ""


if __name__ == "__main__":
    main()
