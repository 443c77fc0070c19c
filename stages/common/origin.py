"""Origin: on which base something was trained, noted beside it, so that it is never merged into another one.

The hash is xxh3_128, as fast as memory: a merge takes it of every byte of the base as it passes.
"""

import json
from collections.abc import Iterable
from pathlib import Path

import click
import xxhash

from stages.common import files

NOTE = "base.json"


def note(base: Path, folder: Path) -> None:
    """Write into `folder` the files of the base on which its contents were trained, with their hashes."""
    files.write_json(folder / NOTE, {"xxh3_128": checksums(base.iterdir())})


def require(base: Path, folder: Path, found: dict[str, str]) -> None:
    """Compare hashes of files of the base with those that were noted.

    Raises:
        click.ClickException: a file of the base has changed since, is new, or is no longer there.
    """
    noted = json.loads((folder / NOTE).read_text(encoding="utf-8"))["xxh3_128"]
    gone = {name: "missing" for name in noted if not (base / name).exists()}
    for name, now in sorted((gone | found).items()):
        was = noted.get(name, "missing")
        if was != now:
            raise click.ClickException(
                f"{folder}: trained on another base than {base}: {name} was {was} and is {now}; run `dvc repro train`"
            )


def checksums(paths: Iterable[Path]) -> dict[str, str]:
    """Map the names of files to the hashes of their bytes."""
    found = {}
    buffer = memoryview(bytearray(2**20))
    for path in sorted(paths):
        digest = xxhash.xxh3_128()
        with path.open("rb", buffering=0) as file:
            while size := file.readinto(buffer):
                digest.update(buffer[:size])
        found[path.name] = digest.hexdigest()
    return found
