"""Local folder: a model on this machine, inside or outside the repository, pinned by the hash of its files."""

import hashlib
import re
from pathlib import Path

import click

from stages.base import model_files
from stages.base.params import BaseParams
from stages.common import files


def pinned(params: Path, config: BaseParams) -> tuple[Path, dict[str, str]]:
    """Find the folder, and compare its files with base.revision.

    DVC does not watch a folder outside the repository, so the hash in params.yaml stands for its content.

    Args:
        params: the params file, for messages.
        config: its base section.

    Returns:
        The folder, and what the manifest records: `id`, `revision` (the hash) and `folder`.

    Raises:
        click.ClickException: no such folder, it is not a model, or its files have another hash than base.revision.
    """
    if not config.folder:
        raise click.ClickException(f"{params}: base.folder: needed with source: folder, such as ../models/my-model")
    folder = Path(config.folder).expanduser()
    if not folder.is_dir():
        raise click.ClickException(
            f"{params}: base.folder: {config.folder}: no such folder; a relative path starts at the repository, "
            "and a container sees nothing outside of it"
        )
    where = f"{params}: base.folder: {config.folder}"
    model_files.check(where, folder)
    model_files.check_weights(where, folder)
    found = digest(folder)
    if not re.fullmatch(r"[0-9a-f]{64}", config.revision or ""):
        raise click.ClickException(
            f"{params}: base.revision: {config.revision!r} is not the hash of the folder's files; after a look at "
            f"them, set it to {found}"
        )
    if found != config.revision:
        raise click.ClickException(
            f"{params}: base.revision: the files in {config.folder} have changed; restore them, or set it to {found}"
        )
    return folder, {"id": config.id or folder.resolve().name, "revision": found, "folder": config.folder}


def wanted(folder: Path) -> list[str]:
    """Return the names of the files that are used."""
    return sorted(name for name in (*model_files.SMALL, *model_files.weights(folder)) if (folder / name).exists())


def digest(folder: Path) -> str:
    """Return the hash of the used files: the sha256 of the list that `sha256sum` prints for them, sorted."""
    lines = [f"{files.sha256(folder / name)}  {name}\n" for name in wanted(folder)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()
