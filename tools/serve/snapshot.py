"""Snapshot: the files of a model in .serve/models, so that no stage changes what a running server reads.

They are hard links to DVC's cache where the file system has them, else copies.
"""

import os
import shutil
from contextlib import suppress
from pathlib import Path

import click

from stages.common import model_folder
from tools.common import dvc_cache
from tools.common.endpoints import HOME
from tools.serve.proof import Model

FOLDER = HOME / "models"


def take(model: Model) -> Path:
    """Put a model's files into .serve/models, and check their hash there.

    Returns:
        The absolute path of the folder.

    Raises:
        click.ClickException: DVC's cache lacks the files, they changed meanwhile, or the folder is not safe to
            load.
    """
    target, building = FOLDER / model.name, FOLDER / f".{model.name}.building"
    for old in (target, building):
        shutil.rmtree(old, ignore_errors=True)
    for name, source in _sources(model).items():
        path = building / name
        path.parent.mkdir(parents=True, exist_ok=True)
        _link(source, path)
    md5 = dvc_cache.folder_md5(building)
    if md5 != model.md5:
        shutil.rmtree(building)
        raise click.ClickException(
            f"{model.folder}: its md5 changed from {model.md5} to {md5}; wait until no stage runs, and try again"
        )
    building.rename(target)
    model_folder.require(target, "make repro")  # a revision's too, which no stage has checked now
    return target.absolute()


def clear() -> None:
    """Remove the snapshots of earlier servers."""
    shutil.rmtree(FOLDER, ignore_errors=True)


def _sources(model: Model) -> dict[str, Path]:
    """Find every file of a model: in DVC's cache, or else in the workspace."""
    if found := dvc_cache.cached_folder(model.md5):
        return found
    if model.rev is not None:
        fetch = f"git checkout {model.rev} && dvc fetch {model.folder} && git checkout -"
        raise click.ClickException(f"{model.folder} at {model.rev}: not in the DVC cache; run `{fetch}` first")
    return {
        path.relative_to(model.folder).as_posix(): path for path in sorted(model.folder.rglob("*")) if path.is_file()
    }


def _link(source: Path, path: Path) -> None:
    """Link a read-only file of the cache; copy a file of the workspace, which a stage may write to."""
    if not source.stat().st_mode & 0o222:
        with suppress(OSError):  # another file system, or one without links
            os.link(source, path)
            return
    shutil.copyfile(source, path)
