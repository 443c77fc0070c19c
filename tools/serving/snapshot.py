"""Snapshot: the files of a model beside the workspace, so that no stage changes what a server reads again.

They are links into DVC's cache where the file system has links, and copies where it has none.
"""

import os
import shutil
from contextlib import suppress
from pathlib import Path

import click

from stages.common import fingerprints
from tools.common import artefact
from tools.serving.proof import Model

FOLDER = Path(".serve/models")


def take(model: Model) -> Path:
    """Lay a model's files into .serve/models, and make sure that their bytes are those of its hash.

    Raises:
        click.ClickException: DVC's cache has not got them, or they changed meanwhile.
    """
    target, building = FOLDER / model.name, FOLDER / f".{model.name}.building"
    for old in (target, building):
        shutil.rmtree(old, ignore_errors=True)
    for name, source in _sources(model).items():
        place = building / name
        place.parent.mkdir(parents=True, exist_ok=True)
        _link(source, place)
    md5 = artefact.folder_md5(building.as_posix(), fingerprints.below(building))
    if md5 != model.md5:
        shutil.rmtree(building)
        raise click.ClickException(f"{model.folder}: md5 {md5}, not {model.md5}: it changes; wait for what runs")
    building.rename(target)
    return target.absolute()


def clear() -> None:
    """Remove the snapshots of earlier servers."""
    shutil.rmtree(FOLDER, ignore_errors=True)


def _sources(model: Model) -> dict[str, Path]:
    """Find every file of a model: in DVC's cache, or else in the workspace."""
    if found := artefact.cached(model.md5):
        return found
    if model.rev is not None:
        fetch = f"git checkout {model.rev} && dvc fetch {model.folder} && git checkout -"
        raise click.ClickException(f"{model.folder} at {model.rev}: not in the DVC cache; run `{fetch}` first")
    return {
        path.relative_to(model.folder).as_posix(): path for path in sorted(model.folder.rglob("*")) if path.is_file()
    }


def _link(source: Path, place: Path) -> None:
    """Link a file of the cache, which nobody writes to; copy a file of the workspace, which somebody may."""
    if not source.stat().st_mode & 0o222:
        with suppress(OSError):  # another file system, or one without links
            os.link(source, place)
            return
    shutil.copyfile(source, place)
