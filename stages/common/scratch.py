"""Scratch: where an interrupted training waits, and who is at it now.

The folder is named by the hash of everything that feeds the stage, so a checkpoint is never taken up by a run with
other params, rows, code or libraries. It lies in the checkout that DVC was started in, which a temporary experiment
names in DVC_ROOT: those find it again, too.
"""

import fcntl
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from stages.common import files

LOCK = Path(".scratch/train.lock")


def folder(facts: dict[str, Any], inputs: list[Path]) -> Path:
    """Give the scratch folder of a run.

    Args:
        facts: params and whatever else decides about the bytes, as JSON can hold it.
        inputs: files and folders that are read.
    """
    code = {
        name: files.sha256(Path(module.__file__))
        for name, module in sorted(sys.modules.items())
        if name.startswith("stages.") and module.__file__
    }
    read = {path.as_posix(): files.digest(path) if path.is_dir() else files.sha256(path) for path in inputs}
    text = json.dumps({"facts": facts, "code": code, "inputs": read}, sort_keys=True)
    return home() / ".scratch" / "train" / hashlib.sha256(text.encode()).hexdigest()[:16]


def home() -> Path:
    """Give the checkout that DVC was started in."""
    return Path(os.environ.get("DVC_ROOT", "."))


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock as long as this process lives, however it ends.

    Raises:
        click.ClickException: another process holds it; says which.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise click.ClickException(f"{path}: held by {holder}; wait for it, or end it with `make stop`") from None
        file.truncate(0)
        file.write(f"process {os.getpid()} on {os.uname().nodename}, which trains in {Path.cwd()}\n")
        file.flush()
        yield
        file.truncate(0)


@contextmanager
def alone(waiting: Path, first: bool) -> Iterator[None]:
    """Hold the workspace and the scratch folder, if this is the process that writes."""
    if not first:
        yield
        return
    with locked(LOCK), locked(waiting / "lock"):
        shutil.rmtree(waiting / "writing", ignore_errors=True)
        yield
