"""Weights: where the tensors of a safetensors file lie, and their rows as float32.

Nothing is memory-mapped, as pages of a mapped file count as memory in use.
"""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click
import numpy as np
from safetensors import SafetensorError, safe_open

from stages.common import dtypes

if TYPE_CHECKING:
    from numpy.typing import NDArray

BLOCK = 2**20  # bytes worked on at a time: with smaller blocks calls cost more, larger ones leave the cache


class Tensor(NamedTuple):
    """Where a tensor lies: `size` bytes from byte `start` of `file`."""

    file: Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    size: int

    @property
    def rows(self) -> int:
        """How many rows there are: one of a single number."""
        return self.shape[0] if self.shape else 1

    def read(self, start: int = 0, stop: int | None = None) -> "NDArray[np.float32]":
        """Read the rows from `start` to `stop`, or to the end, as float32.

        Raises:
            click.ClickException: a number among them is infinite or none at all.
        """
        count = (self.rows if stop is None else stop) - start
        row = self.size // self.rows
        with self.file.open("rb", buffering=0) as file:
            file.seek(self.start + start * row)
            values = dtypes.widen(file.read(count * row), self.dtype).reshape(count, *self.shape[1:])
        if not np.isfinite(values).all():
            raise click.ClickException(f"{self.file}: {self.name}: holds numbers that are not finite")
        return values


def tensors(file: Path) -> list[Tensor]:
    """List a file's tensors in the order in which they lie in it.

    Raises:
        click.ClickException: the file is damaged or cut short.
    """
    try:
        with safe_open(file, framework="numpy"):  # checks that the header fits the file
            pass
    except SafetensorError as error:
        raise click.ClickException(f"{file}: damaged ({error}); run `dvc repro` to make it again") from None
    header = read_header(file)
    places = json.loads(header[8:])
    places.pop("__metadata__", None)
    found = []
    for name, place in places.items():
        start, end = place["data_offsets"]
        found.append(Tensor(file, name, place["dtype"], tuple(place["shape"]), len(header) + start, end - start))
    return sorted(found, key=lambda tensor: (tensor.start, tensor.size))


def read_header(file: Path) -> bytes:
    """Read what comes before the tensors: the length of a JSON text, in 8 bytes, and the text."""
    with file.open("rb") as content:
        length = content.read(8)
        return length + content.read(*struct.unpack("<Q", length))


def blocks(tensor: Tensor) -> Iterator[tuple[int, int, int]]:
    """Split a tensor's rows evenly: gives of each block the first row, the row after the last, and the bytes."""
    number = min(tensor.rows, -(-tensor.size // BLOCK))
    for part in range(number):
        start, stop = (tensor.rows * bound // number for bound in (part, part + 1))
        yield start, stop, (stop - start) * (tensor.size // tensor.rows)
