"""Log folder: logs/RUN/STAGE with everything that a run leaves behind, and a lock for as long as a stage runs."""

import fcntl
import json
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from resource_usage import READY, measure_children
from stage_variables import DETERMINISM


@contextmanager
def running(home: Path, stage: str, logs: Path) -> Iterator[None]:
    """Hold a lock on .scratch/running/PROCESS while a stage runs. `make stop` finds the stage and its logs by it."""
    folder = home / ".scratch" / "running"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / str(os.getpid())
    with path.open("w", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(f"{stage}\n{logs}\n")
        file.flush()
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def make_folder(home: Path, name: str) -> tuple[Path, bool]:
    """Make logs/RUN/NAME. Stages of one `dvc repro` share a process group, and so a run.

    Returns:
        The folder, and whether it is the first one of its run.
    """
    logs = home / "logs"
    latest, group = logs / "latest.txt", f"{os.getpgrp()}\n"
    run = os.environ.get("RUN", "")
    if not run and latest.exists():
        previous = latest.read_text(encoding="utf-8").strip()
        owner = logs / previous / ".group"
        if owner.exists() and owner.read_text() == group and not (logs / previous / name).exists():
            run = previous
    run = run or time.strftime("%Y%m%d-%H%M%S")
    made = logs / run / name
    is_first = not made.parent.exists()
    made.mkdir(parents=True, exist_ok=True)
    (logs / run / ".group").write_text(group)
    latest.write_text(f"{run}\n", encoding="utf-8")
    return made, is_first


def write_facts(folder: Path, facts: dict[str, Any]) -> None:
    """Write runtime.json: what differs between machines or runs, and so may not be in a tracked file."""
    facts |= {
        **take_usage(folder),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "environment": DETERMINISM,
        "host": platform.node(),
        "platform": platform.platform(),
        "workspace": str(Path.cwd()),
    }
    text = json.dumps(facts, indent=2, sort_keys=True) + "\n"
    (folder / "runtime.json").write_text(text, encoding="utf-8")


def take_usage(folder: Path) -> dict[str, float]:
    """Return CPU time and memory of the stage: from docker/resource_usage.py in a container, else as our child's."""
    (folder / READY).unlink(missing_ok=True)
    file = folder / "usage.json"
    if not file.exists():
        return measure_children()
    found: dict[str, float] = json.loads(file.read_text(encoding="utf-8"))
    file.unlink()
    return found
