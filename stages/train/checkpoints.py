"""Checkpoints of the train stage: where they are, for which training, and that each is complete or not there.

The folder is `.scratch/train/KEY` of the checkout that DVC was started in. KEY is the hash of everything that decides
about the bytes, so a training never resumes from the checkpoint of another one.
"""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
from ruamel.yaml import YAML

from stages.common import files
from stages.common.workspace import home
from stages.train.params import TrainParams

ROOT = Path(__file__).resolve().parents[2]
LOCK = Path(".scratch/train.lock")
KEPT = 2  # the newest, and the one before it
LIST = "files.json"
WRITING = "writing"
# Params that change no byte.
NOT_IN_KEY = {"machine": {"save_steps", "report_to", "dataloader_num_workers"}}


def checkpoint_folder(config: TrainParams, inputs: list[Path]) -> Path:
    """Compute the checkpoint folder of a training from params, inputs, code, libraries and number of processes.

    Args:
        config: the params; those in NOT_IN_KEY are left out.
        inputs: files and folders that the training reads.
    """
    key = {
        "params": config.model_dump(exclude=NOT_IN_KEY),
        "inputs": {path.as_posix(): files.digest(path) if path.is_dir() else files.sha256(path) for path in inputs},
        "code": {path.relative_to(ROOT).as_posix(): files.sha256(path) for path in code_files()},
        "processes": os.environ.get("WORLD_SIZE", "1"),
    }
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    return home() / ".scratch" / "train" / digest[:16]


def code_files() -> list[Path]:
    """List the files of code and of library versions that the train stage depends on, as dvc.yaml has them."""
    deps = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]["train"]["deps"]
    paths = [ROOT / dep for dep in deps if dep.startswith(("stages/", "requirements/"))]
    found = [file for path in paths for file in (path.rglob("*") if path.is_dir() else [path]) if file.is_file()]
    return sorted(file for file in found if "__pycache__" not in file.parts)


@contextmanager
def reserved(folder: Path, start: Path | None, first: bool) -> Iterator[None]:
    """Hold the workspace and a checkpoint folder, so that two trainings never share them.

    What a killed training left unfinished is removed, a checkpoint that does not read back is set aside, and the
    terminal gets the step from which this training starts.

    Args:
        folder: the checkpoint folder.
        start: the folder that train.resume_from names.
        first: whether this is the process that writes; the others hold nothing.

    Raises:
        click.ClickException: another training holds one of them.
    """
    if not first:
        yield
        return
    with _locked(LOCK), _locked(folder / "lock"):
        shutil.rmtree(folder / WRITING, ignore_errors=True)
        _set_aside_broken(folder)
        newest = resume_point(folder, start)
        if newest is None:
            click.echo(f"starting from step 0; checkpoints go to {folder}")
        else:
            state = json.loads((newest / "trainer_state.json").read_text(encoding="utf-8"))
            click.echo(f"resuming from step {state['global_step']} of {newest.parent}")
        yield


def resume_point(folder: Path, start: Path | None) -> Path | None:
    """Find what a training resumes from: its newest checkpoint, or else the one to start from.

    Args:
        folder: the checkpoint folder.
        start: the folder that train.resume_from names; without a trainer's state it is only weights.
    """
    if newest := next(iter(newest_first(folder)), None):
        return newest
    return start if start and (start / "trainer_state.json").exists() else None


def store(written: Path, folder: Path) -> None:
    """Move a checkpoint that was written elsewhere on the same disk into `folder`, and remove the oldest one.

    Its files are on the disk before it gets its name, so a name stands for a complete checkpoint even after a crash.
    """
    files.write_json(written / LIST, files.hashes(written))
    for path in (*written.rglob("*"), written):
        _sync(path)
    shutil.rmtree(folder / written.name, ignore_errors=True)
    written.rename(folder / written.name)
    _sync(folder)
    for old in newest_first(folder)[KEPT:]:
        shutil.rmtree(old, ignore_errors=True)


def newest_first(folder: Path) -> list[Path]:
    """List checkpoints, the newest first."""
    named = [(path.name.partition("checkpoint-")[2], path) for path in folder.glob("checkpoint-*")]
    return [path for _, path in sorted(((int(n), path) for n, path in named if n.isdigit()), reverse=True)]


def next_start(folder: Path) -> str:
    """Say from which step the next run of a training that fails now starts."""
    newest = next(iter(newest_first(folder)), None)
    return f"it resumes from step {newest.name.partition('-')[2]}" if newest else "it starts from step 0"


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock as long as this process lives, however it ends."""
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


def _set_aside_broken(folder: Path) -> None:
    """Rename the newest checkpoints until one reads back as it was written."""
    for path in newest_first(folder):
        problem = _problem(path)
        if not problem:
            return
        aside = path.with_name(f"{path.name}.broken")
        shutil.rmtree(aside, ignore_errors=True)
        path.rename(aside)
        click.echo(f"{path.name} set aside: {problem}", err=True)


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
