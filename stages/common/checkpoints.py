"""Checkpoints: each is whole or not there, and one that does not read back is set aside."""

import json
import os
import shutil
from pathlib import Path

import click

from stages.common import files

KEPT = 2  # the newest, and the one before it
LIST = "files.json"
WRITING = "writing"


def keep(written: Path, folder: Path) -> None:
    """Make a checkpoint that was written elsewhere on the same disk one of `folder`, and drop the oldest.

    Its files are on the disk before it gets its name, so a name stands for a whole checkpoint even after a crash.
    """
    files.write_json(written / LIST, files.hashes(written))
    for path in (*written.rglob("*"), written):
        _sync(path)
    place = folder / written.name
    shutil.rmtree(place, ignore_errors=True)
    written.rename(place)
    _sync(folder)
    for old in found(folder)[KEPT:]:
        shutil.rmtree(old, ignore_errors=True)


def newest(folder: Path) -> Path | None:
    """Give the newest checkpoint that reads back as it was written; others are set aside, with a message."""
    for path in found(folder):
        if problem := _problem(path):
            aside = path.with_name(f"{path.name}.broken")
            shutil.rmtree(aside, ignore_errors=True)
            path.rename(aside)
            click.echo(f"{path.name} set aside: {problem}", err=True)
        else:
            return path
    return None


def found(folder: Path) -> list[Path]:
    """List checkpoints, the newest first."""
    named = [(path.name.partition("checkpoint-")[2], path) for path in folder.glob("checkpoint-*")]
    return [path for _, path in sorted(((int(n), path) for n, path in named if n.isdigit()), reverse=True)]


def step(path: Path | None) -> int:
    """Give the number of optimizer steps that a checkpoint has behind it."""
    return int(path.name.partition("-")[2]) if path else 0


def last_good(folder: Path) -> str:
    """Say from where a training in this folder goes on."""
    newest_found = next(iter(found(folder)), None)
    return (
        f"it goes on after step {step(newest_found)}" if newest_found else "it starts anew, as no checkpoint is left"
    )


def _problem(path: Path) -> str:
    try:
        expected = json.loads((path / LIST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return f"{LIST} is missing or broken"
    present = {name: value for name, value in files.hashes(path).items() if name != LIST}
    bad = sorted(name for name in expected.keys() | present.keys() if expected.get(name) != present.get(name))
    return f"{bad[0]} is not what was written" if bad else ""


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
