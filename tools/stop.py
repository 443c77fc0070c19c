"""Stop the stages and servers of this checkout. Train saves a checkpoint first, from which it resumes.

Sends SIGTERM to each process and waits until it ends: train for as long as its step takes, the others for a minute,
after which they are killed. Stops containers, too, also those whose starting process is gone. Run it with `make
stop`, for example `make stop WHAT=serve`, or with `python -m tools.stop`.
"""

import fcntl
import json
import os
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

FOLDER = Path(".scratch/running")
PROJECT = os.environ.get("COMPOSE_PROJECT_NAME", "lockstep")  # of docker/compose.yaml
SERVE = "serve"
WAIT = 60.0  # seconds
REPORT = 30.0  # seconds between two lines about what is waited for


@dataclass(frozen=True)
class Running:
    """A process that runs a stage, or the servers.

    Attributes:
        file: its file in FOLDER, which it holds.
        stage: the name of the stage, or SERVE.
        logs: its log folder.
    """

    file: Path
    stage: str
    logs: Path | None

    @property
    def kind(self) -> str:
        """Whether it is the servers or one of the stages."""
        return SERVE if self.stage == SERVE else "stages"

    @property
    def process(self) -> int:
        """Its process id."""
        return int(self.file.name)

    def progress(self) -> dict[str, Any]:
        """Return what train wrote about its steps (stages/train/callbacks.py), or nothing."""
        file = self.logs / "progress.json" if self.logs and self.stage == "train" else None
        return json.loads(file.read_text(encoding="utf-8")) if file and file.exists() else {}


@click.command(help=__doc__)
@click.option(
    "--what",
    default="all",
    show_default=True,
    metavar="all|serve|stages|STAGE",
    help="The servers, all stages, or one stage by its name.",
)
@click.option(
    "--wait", type=float, help="Seconds until a process that still runs is killed.  [default: 60; train: no limit]"
)
def main(what: str, wait: float | None) -> None:
    found = running()
    chosen = [one for one in found if what in {"all", one.stage, one.stage.partition("@")[0], one.kind}]
    watched = {one.file.name for one in found}
    unwatched = [name for name in containers() if name.rpartition("-")[2] not in watched]
    unwatched = [name for name in unwatched if what in ("all", "stages") or f"-{what.replace('@', '-')}-" in name]
    serving = services() if what in ("all", SERVE) else []
    if not chosen and not unwatched and not serving:
        others = f"; running are {', '.join(sorted({one.stage for one in found}))}" if found else ""
        click.echo(f"{'nothing' if what == 'all' else f'nothing of {what}'} runs here{others}")
    limit = str(round(WAIT if wait is None else wait))
    if serving:
        click.echo(f"stopping {', '.join(serving)}")
        docker("compose", "--project-name", PROJECT, "down", "--timeout", limit)
    for name in unwatched:
        click.echo(f"stopping container {name}, which no stage waits for")
        docker("stop", "--time", limit, name)
    for one in chosen:
        click.echo(f"stopping {one.stage} (process {one.process}){after(one.progress())}")
        os.kill(one.process, signal.SIGTERM)
    start = time.monotonic()
    for one in chosen:
        seconds = wait if wait is not None else None if one.progress() else WAIT
        killed = not wait_for(one, start, seconds)
        click.echo(f"{one.stage} {'was killed' if killed else 'has ended'}{outcome(one.progress())}")


def running() -> list[Running]:
    """List what runs in this checkout."""
    found = []
    for path in sorted(FOLDER.glob("*")):
        if is_held(path):
            stage, *logs = path.read_text(encoding="utf-8").splitlines() or [""]
            found.append(Running(path, stage, Path(logs[0]) if logs else None))
    return found


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


def wait_for(one: Running, start: float, seconds: float | None) -> bool:
    """Wait until a process ends; kill it, its children and its containers after some seconds.

    Args:
        one: the process.
        start: when the waiting began, by the monotonic clock.
        seconds: None: there is no limit.

    Returns:
        Whether it ended by itself.
    """
    told = time.monotonic()
    while is_held(one.file):
        now = time.monotonic()
        if seconds is not None and now - start >= seconds:
            kill(one.process)
            for name in containers():
                if name.endswith(f"-{one.process}"):
                    docker("rm", "--force", name)
            return False
        if now - told >= REPORT:
            told = now
            click.echo(f"{one.stage} still runs after {now - start:.0f} s{after(one.progress())}")
        time.sleep(0.1)
    return True


def after(progress: dict[str, Any]) -> str:
    """Say what train does before it ends, and how long that takes."""
    if not progress:
        return ""
    again = "; run `make stop` again to stop now, `make stop WAIT=0` to kill it"
    if progress["doing"] == "evaluation":
        return f": it evaluates after step {progress['done']}, and ends after the next one{again}"
    step = f": it ends after step {progress['done'] + 1} of {progress['steps']}"
    if progress["seconds_per_step"] is None:
        return f"{step}, the first one, so its time is not known{again}"
    left = max(0.0, progress["seconds_per_step"] - (time.time() - progress["since"]))
    return f"{step}, in about {left:.0f} s (a step takes {progress['seconds_per_step']:.1f} s){again}"


def outcome(progress: dict[str, Any]) -> str:
    """Say what of a training is saved, and what is lost."""
    if not progress:
        return ""
    if not progress["saved"]:
        return ": no checkpoint is saved, so the next `make repro` starts it from step 0"
    lost = progress["done"] - progress["saved"]
    words = "nothing is lost" if not lost else f"{lost} {'step' if lost == 1 else 'steps'} after it are lost"
    return f": the checkpoint of step {progress['saved']} of {progress['steps']} is saved, {words}"


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
