"""Limits: how much preprocess unpacks, and how long a row may be, so that a small file cannot fill the memory."""

import io
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import click

from stages.preprocess.params import FileParams

MAX_RATIO = 1000  # bytes for one byte of the file; gzip reaches 1032, on zeros
RATIO_FROM = 1 << 30  # bytes; a small file of equal rows does no harm


class Unpacked(io.RawIOBase):
    """The bytes that a compressed file unpacks to, up to the limits.

    Reading raises click.ClickException where the file holds more.
    """

    def __init__(self, path: Path, stream: BinaryIO, params: FileParams) -> None:
        self.path, self.stream, self.params = path, stream, params
        self.size, self.taken = path.stat().st_size, 0

    def readable(self) -> bool:
        """Return True, as io.BufferedReader asks."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer with the next bytes."""
        count: int = self.stream.readinto(buffer)  # type: ignore[attr-defined]
        self.taken += count
        if self.taken > self.params.max_unpacked_gib * (1 << 30):
            raise click.ClickException(
                f"{self.path}: unpacks to more than {self.params.max_unpacked_gib:g} GiB; raise max_unpacked_gib in "
                "preprocess.files, or split the file"
            )
        if self.taken > RATIO_FROM and self.taken > MAX_RATIO * self.size:
            raise click.ClickException(
                f"{self.path}: unpacks to more than {MAX_RATIO} times its size; fetch it again, or unpack it yourself"
            )
        return count


def row_bytes(params: FileParams) -> int:
    """Return how many bytes, or characters, a row may have."""
    return int(params.max_row_mib * (1 << 20))


def too_long(path: Path, place: str, params: FileParams) -> click.ClickException:
    """Say that a row is longer than max_row_mib.

    Args:
        path: the file.
        place: what follows its name, such as `:3`.
        params: its settings.
    """
    raised = f"{{'{path.name}': {{max_row_mib: {2 * params.max_row_mib:g}}}}}"
    return click.ClickException(
        f"{path}{place}: the row is longer than {params.max_row_mib:g} MiB; fix it, or raise the limit in "
        f"preprocess.files, such as {raised}"
    )


def bounded_lines(path: Path, text: io.TextIOWrapper, params: FileParams) -> Iterator[str]:
    """Read lines.

    Raises:
        click.ClickException: one is longer than a row may be; it is not read whole.
    """
    limit = row_bytes(params)
    for number, line in enumerate(iter(partial(text.readline, limit + 1), ""), start=1):
        if len(line) > limit:
            raise too_long(path, f":{number}", params)
        yield line
