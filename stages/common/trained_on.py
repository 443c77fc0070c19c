"""Hashes of the base model that an adapter was trained on, so that it is never merged into another one.

Train writes them beside the adapter, and merge compares them. The hash is xxh3_128, which is as fast as memory: merge
hashes every byte of the base while it reads it.
"""

import json
from collections.abc import Iterable
from pathlib import Path

import click
import xxhash

from stages.common import files

NOTE = "base.json"


def note(base: Path, folder: Path) -> None:
    """Write the hashes of the base model's files into the folder of what was trained on it."""
    files.write_json(folder / NOTE, {"xxh3_128": checksums(base.iterdir())})


def require(base: Path, folder: Path, found: dict[str, str]) -> None:
    """Fail when files of the base differ from those that the adapter was trained on.

    Args:
        base: the base model's folder.
        folder: the adapter's folder.
        found: hashes of files of the base, by name.

    Raises:
        click.ClickException: a file has changed since the training, is new, or is missing.
    """
    expected = json.loads((folder / NOTE).read_text(encoding="utf-8"))["xxh3_128"]
    gone = {name: "missing" for name in expected if not (base / name).exists()}
    for name, now in sorted((gone | found).items()):
        was = expected.get(name, "missing")
        if was != now:
            raise click.ClickException(
                f"{folder}: trained on another base than {base}: {name} was {was} and is {now}; run `dvc repro train`"
            )


def checksums(paths: Iterable[Path]) -> dict[str, str]:
    """Compute the hash of each file, by its name."""
    found = {}
    buffer = memoryview(bytearray(2**20))
    for path in sorted(paths):
        digest = xxhash.xxh3_128()
        with path.open("rb", buffering=0) as file:
            while size := file.readinto(buffer):
                digest.update(buffer[:size])
        found[path.name] = digest.hexdigest()
    return found
