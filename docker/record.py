"""Record: what is left of a run: logs/RUN/STAGE, and a locked file for as long as a stage runs."""

import fcntl
import json
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import environment
import usage


@contextmanager
def running(home: Path, stage: str) -> Iterator[None]:
    """Leave a locked file for as long as a stage runs: `make stop` finds it by that, however we end."""
    folder = home / ".scratch" / "running"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / str(os.getpid())
    with path.open("w", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(stage)
        file.flush()
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def folder(home: Path, name: str) -> tuple[Path, bool]:
    """Make logs/RUN/NAME, and say whether it is the run's first. Stages of one `dvc repro` share a process group."""
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


def write(folder: Path, facts: dict[str, Any]) -> None:
    """Write runtime.json: what varies by machine or run, and so has no place in a tracked file."""
    facts |= {
        **used(folder),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "environment": environment.DETERMINISM,
        "host": platform.node(),
        "platform": platform.platform(),
        "workspace": str(Path.cwd()),
    }
    text = json.dumps(facts, indent=2, sort_keys=True) + "\n"
    (folder / "runtime.json").write_text(text, encoding="utf-8")


def used(folder: Path) -> dict[str, float]:
    """Give CPU time and memory of the stage, as docker/usage.py left it or as it was our child."""
    (folder / usage.READY).unlink(missing_ok=True)
    file = folder / "usage.json"
    if not file.exists():
        return usage.measured()
    found: dict[str, float] = json.loads(file.read_text(encoding="utf-8"))
    file.unlink()
    return found
