"""Model folder: checked before it is loaded, so that no file in it can run code and none lies elsewhere."""

from pathlib import Path

import click

from stages.common import files

SUFFIXES = (".jinja", ".json", ".md", ".model", ".safetensors", ".txt", ".yaml")  # .model: SentencePiece


def require(folder: Path, command: str) -> None:
    """Fail unless a model folder exists and is safe to load.

    Args:
        folder: a folder in models/.
        command: the command that makes the folder, for messages.

    Raises:
        click.ClickException: no such folder, or it holds a pickle, code, another unsupported file, or a link to a
            file outside.
    """
    files.require(folder, command)
    inside = folder.resolve()
    for path in sorted(folder.rglob("*")):
        if not path.resolve().is_relative_to(inside):
            raise click.ClickException(
                f"{path}: links to {path.resolve()}, outside the folder; replace the link with the file, or run "
                f"`{command}`"
            )
        if path.is_file() and path.suffix not in SUFFIXES:
            raise click.ClickException(
                f"{path}: unsupported file type in a model folder (a pickle or code can run anything); delete it, or "
                f"run `{command}`"
            )
