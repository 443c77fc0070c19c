"""Shards: weight files copied with other numbers, block of rows by block of rows, so that any model fits through."""

import os
import threading
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple

import xxhash

from stages.common import dtypes, weights

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Change = Callable[[NDArray[np.float32], int, int], NDArray[np.float32]]

WORKERS = 2  # blocks worked on at once: docker/run gives other stages as many threads


class Rewritten(NamedTuple):
    """How many tensors of a file differ from before, and the xxh3_128 hash of what was there before."""

    differing: int
    checksum: str


class Block(NamedTuple):
    """Rows of a tensor, from `start` to `stop`: what lies from byte `place` of the file on, and what it becomes."""

    tensor: weights.Tensor
    start: int
    stop: int
    place: int
    raw: bytes
    change: "Change | None"

    def changed(self) -> bytes:
        """Compute in float32, and round once."""
        if not self.change:
            return self.raw
        shape = (self.stop - self.start, *self.tensor.shape[1:])
        values = dtypes.widen(self.raw, self.tensor.dtype).reshape(shape)
        return dtypes.narrow(self.change(values, self.start, self.stop), self.tensor.dtype)


def rewrite(source: Path, target: Path, changes: "Mapping[str, Callable[[], Change]]") -> Rewritten:
    """Copy a file with other numbers: same header, and so the same names, shapes, dtypes and order.

    Args:
        source: a safetensors file.
        target: the file to write.
        changes: what makes ready the change of a tensor, by the tensor's name. The change gets rows as float32, the
            first one's number and the number after the last one's, and gives the rows to write.
    """
    header = weights.read_header(source)
    digest = xxhash.xxh3_128(header)
    differing: set[str] = set()
    with source.open("rb", buffering=0) as old, target.open("wb", buffering=0) as new:
        old.seek(new.write(header))

        def work(block: Block) -> None:
            written = block.changed()
            if block.tensor.name not in differing and written != block.raw:
                differing.add(block.tensor.name)
            write(new.fileno(), written, block.place)

        side_by_side(work, blocks(old, weights.tensors(source), changes, digest))
    return Rewritten(len(differing), digest.hexdigest())


def blocks(
    old: IO[bytes],
    tensors: list[weights.Tensor],
    changes: "Mapping[str, Callable[[], Change]]",
    digest: "xxhash.xxh3_128",
) -> Generator[Block]:
    """Read a file's tensors, one after the other, in blocks; one that does not change is a row of bytes."""
    for tensor in tensors:
        change = changes[tensor.name]() if tensor.name in changes else None
        place = tensor.start
        for start, stop, size in weights.blocks(tensor if change else tensor._replace(shape=(tensor.size,))):
            raw = old.read(size)
            digest.update(raw)
            yield Block(tensor, start, stop, place, raw, change)
            place += size


def side_by_side(work: Callable[[Block], None], waiting: Generator[Block]) -> None:
    """Work on WORKERS blocks at once; the first error, or Ctrl-C, ends all."""
    lock = threading.Lock()

    def worker() -> None:
        while True:
            with lock:
                block = next(waiting, None)
            if block is None:
                return
            work(block)

    with ThreadPoolExecutor(WORKERS) as pool:
        futures = [pool.submit(worker) for _ in range(WORKERS)]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:
            with lock:
                waiting.close()
    for future in futures:
        future.result()


def write(descriptor: int, content: bytes, place: int) -> None:
    """Write all of `content` from byte `place` on; a disk that is nearly full takes a part first."""
    left = memoryview(content)
    while left:
        done = os.pwrite(descriptor, left, place)
        left, place = left[done:], place + done
