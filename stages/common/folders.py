"""Folders: model folders as they may be loaded, with nothing in them that could run code or lie elsewhere."""

from pathlib import Path

import click

from stages.common import files

KINDS = (
    ".jinja",
    ".json",
    ".md",
    ".model",
    ".safetensors",
    ".txt",
    ".yaml",
)  # .model: SentencePiece's


def require(folder: Path, command: str) -> None:
    """Fail unless a model folder is there and may be loaded.

    Args:
        folder: one of models/.
        command: makes the folder.

    Raises:
        click.ClickException: there is none, or it holds a pickle, code, another strange file, or a link out of it.
    """
    files.require(folder, command)
    inside = folder.resolve()
    for path in sorted(folder.rglob("*")):
        if not path.resolve().is_relative_to(inside):
            raise click.ClickException(
                f"{path}: leads out of the folder, to {path.resolve()}; put the file itself there, or run `{command}`"
            )
        if path.is_file() and path.suffix not in KINDS:
            raise click.ClickException(
                f"{path}: no kind of file that is loaded (pickles and code can do anything); delete it, or run "
                f"`{command}`"
            )
