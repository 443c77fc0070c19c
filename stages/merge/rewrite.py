"""Rewrite: copy the base model's weight files block by block and change the tensors that have a delta.

Memory holds a few blocks, however large the model is.
"""

import os
import threading
from collections.abc import Callable, Generator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple

import numpy as np
import xxhash

from stages.common import trained_on
from stages.merge.delta import Delta
from stages.merge.plan import Plan
from stages.merge.tensors import DTYPES, Tensor, widen

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from stages.merge.delta import Change

WORKERS = 2  # blocks at once: as many threads as docker/run gives to other stages


class Block(NamedTuple):
    """Rows `start` to `stop` of a tensor: the base's bytes, their position in the file, and what changes them."""

    tensor: Tensor
    start: int
    stop: int
    position: int
    raw: bytes
    change: "Change | None"


def rewrite_weights(base: Path, trained: Path, out: Path, plan: Plan) -> int:
    """Write the base model's weight files with the deltas added: same files, headers, dtypes and order.

    Args:
        base: the base model's folder.
        trained: the folder of an adapter, or of a model after full fine-tuning.
        out: the folder to write to.
        plan: from `plan_merge`.

    Returns:
        How many tensors differ from the base's.

    Raises:
        click.ClickException: a weight file is not the one that `trained` was trained on.
    """
    total = 0
    for file, tensors in plan.items():
        differing, checksum = rewrite_file(file, out / file.name, tensors)
        trained_on.require(base, trained, {file.name: checksum})
        total += differing
    return total


def rewrite_file(source: Path, target: Path, tensors: list[tuple[Tensor, Delta | None]]) -> tuple[int, str]:
    """Write one weight file.

    Returns:
        How many tensors differ, and the xxh3_128 hash of the source.
    """
    differing: set[str] = set()
    with source.open("rb", buffering=0) as old, target.open("wb", buffering=0) as new:
        header = old.read(min((tensor.start for tensor, _ in tensors), default=source.stat().st_size))
        new.write(header)
        digest = xxhash.xxh3_128(header)

        def write_block(block: Block) -> None:
            written = block.raw
            if block.change:  # computed in float32, and rounded once
                shape = (block.stop - block.start, *block.tensor.shape[1:])
                values = widen(block.raw, block.tensor.dtype).reshape(shape)
                written = narrow(block.change(values, block.start, block.stop), block.tensor.dtype)
                if block.tensor.name not in differing and written != block.raw:
                    differing.add(block.tensor.name)
            left, position = memoryview(written), block.position
            while left:  # a disk that is nearly full takes a part first
                done = os.pwrite(new.fileno(), left, position)
                left, position = left[done:], position + done

        side_by_side(write_block, read_blocks(old, tensors, digest))
    return len(differing), digest.hexdigest()


def narrow(values: "NDArray[np.float32]", dtype: str) -> bytes:
    """Round float32 numbers to a stored dtype: to the nearest number, ties to the one whose last bit is 0."""
    if dtype != "BF16":
        with np.errstate(over="ignore"):
            return values.astype(DTYPES[dtype]).tobytes()
    bits = np.ascontiguousarray(values).view(np.uint32)
    rounded = bits >> 16
    rounded &= 1
    rounded += 0x7FFF
    rounded += bits
    rounded >>= 16
    return rounded.astype(np.uint16).tobytes()


def read_blocks(
    file: IO[bytes], tensors: list[tuple[Tensor, Delta | None]], digest: xxhash.xxh3_128
) -> Generator[Block]:
    """Read a file's tensors one after the other, in blocks. One without a delta counts as rows of one byte."""
    for tensor, delta in tensors:
        change = delta.prepare(tensor) if delta else None
        position = tensor.start
        for start, stop, size in (tensor if change else tensor._replace(shape=(tensor.size,))).blocks():
            raw = file.read(size)
            digest.update(raw)
            yield Block(tensor, start, stop, position, raw, change)
            position += size


def side_by_side(work: Callable[[Block], None], waiting: Generator[Block]) -> None:
    """Work on WORKERS blocks at once. The first error, or Ctrl-C, ends all."""
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
