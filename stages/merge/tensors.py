"""Tensors: where each one lies in a safetensors file, and its rows as float32.

Files are read, not memory-mapped: the pages of a mapped file count as memory in use.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click
import numpy as np
from safetensors import SafetensorError, safe_open

if TYPE_CHECKING:
    from numpy.typing import NDArray

BLOCK = 2**20  # bytes per block: smaller blocks cost more calls, larger ones do not fit in the processor's cache
# By their names in safetensors files. numpy has no bfloat16: its 16 bits are read as an integer.
DTYPES: dict[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype("<u2")}


class Tensor(NamedTuple):
    """A tensor on disk: `size` bytes of `file`, from byte `start`."""

    file: Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    size: int

    @property
    def rows(self) -> int:
        """Number of rows; a single number is one row."""
        return self.shape[0] if self.shape else 1

    def blocks(self) -> Iterator[tuple[int, int, int]]:
        """Split the rows evenly into blocks of about BLOCK bytes.

        Returns:
            For each block its first row, the row after its last, and its bytes.
        """
        number = min(self.rows, -(-self.size // BLOCK))
        for part in range(number):
            start, stop = (self.rows * bound // number for bound in (part, part + 1))
            yield start, stop, (stop - start) * (self.size // self.rows)

    def read(self, start: int = 0, stop: int | None = None) -> "NDArray[np.float32]":
        """Read the rows from `start` up to `stop`, or all, as float32.

        Raises:
            click.ClickException: one of the numbers is infinite or NaN.
        """
        count = (self.rows if stop is None else stop) - start
        row = self.size // self.rows
        with self.file.open("rb", buffering=0) as file:
            file.seek(self.start + start * row)
            values = widen(file.read(count * row), self.dtype).reshape(count, *self.shape[1:])
        if not np.isfinite(values).all():
            raise click.ClickException(
                f"{self.file}: {self.name}: holds infinite numbers or NaN; if the training diverged, lower "
                "train.sft.learning_rate"
            )
        return values


def list_tensors(folder: Path) -> list[Tensor]:
    """List the tensors of a folder's safetensors files, in the order in which they lie there.

    Raises:
        click.ClickException: a file is damaged or cut short.
    """
    found = []
    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(file, framework="numpy"):  # checks that the header fits the file
                pass
        except SafetensorError as error:
            raise click.ClickException(f"{file}: damaged ({error}); run `dvc repro` to make it again") from None
        with file.open("rb") as content:  # the header's length in 8 bytes, the header as JSON, the tensors
            length = int.from_bytes(content.read(8), "little")
            header = json.loads(content.read(length))
        header.pop("__metadata__", None)
        tensors = []
        for name, entry in header.items():
            start, end = entry["data_offsets"]
            tensors.append(Tensor(file, name, entry["dtype"], tuple(entry["shape"]), 8 + length + start, end - start))
        found += sorted(tensors, key=lambda tensor: (tensor.start, tensor.size))
    return found


def widen(raw: bytes, dtype: str) -> "NDArray[np.float32]":
    """Convert stored numbers to float32, exactly. A bfloat16 is the upper half of a float32."""
    stored = np.frombuffer(raw, DTYPES[dtype])
    if dtype != "BF16":
        return stored.astype(np.float32)
    bits = stored.astype(np.uint32)
    bits <<= 16
    return bits.view(np.float32)
