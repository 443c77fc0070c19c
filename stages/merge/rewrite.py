"""Rewrite: copy the base model's weight files block by block and change the tensors that have a delta.

Memory holds a few blocks, however large the model is.
"""

import json
import os
import shutil
import threading
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple

import numpy as np
import xxhash

from stages.common import files, trained_on
from stages.common.progress import track
from stages.merge.delta import Delta
from stages.merge.plan import Plan
from stages.merge.rounding import narrow, narrow_by_chance
from stages.merge.tensors import DTYPES, Tensor, list_tensors, widen

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from stages.merge.delta import Change

WORKERS = 2  # blocks at once: as many threads as docker/run gives to other stages


class Block(NamedTuple):
    """Rows `start` to `stop` of a tensor: what changes the base's bytes, where they go, and as what."""

    tensor: Tensor
    start: int
    stop: int
    position: int
    raw: bytes
    change: "Change | None"
    dtype: str


def rewrite_weights(
    base: Path, trained: Path, out: Path, plan: Plan, dtype: str = "base", seed: int | None = None
) -> int:
    """Write the base model's weight files with the deltas added: same files and order, and with `base` same headers.

    Args:
        base: the base model's folder.
        trained: the folder of an adapter, or of a model after full fine-tuning.
        out: the folder to write to.
        plan: from `plan_merge`.
        dtype: `base`, or `float32` for all floating-point numbers.
        seed: of rounding by chance; None: to the nearest number.

    Returns:
        How many tensors differ from the base's.

    Raises:
        click.ClickException: a weight file is not the one that `trained` was trained on.
    """
    total = 0
    for file, tensors in plan.items():
        differing, checksum = rewrite_file(file, out / file.name, tensors, dtype, seed)
        trained_on.require(base, trained, {file.name: checksum})
        total += differing
    return total


def write_others(others: list[Path], out: Path, dtype: str) -> None:
    """Copy the base model's other files byte for byte; with `float32`, config.json and the index say so."""
    for file in others:
        if file.name == "manifest.json":  # it describes the base model
            continue
        if dtype == "float32" and file.name == "config.json":
            config = files.read_json(file)
            config.pop("torch_dtype", None)  # its name before transformers 5
            files.write_json(out / file.name, config | {"dtype": "float32"})
        elif dtype == "float32" and file.name.endswith(".safetensors.index.json"):
            index = files.read_json(file)
            index["metadata"] = (index.get("metadata") or {}) | {
                "total_size": sum(tensor.size for tensor in list_tensors(out))
            }
            files.write_json(out / file.name, index)
        else:
            shutil.copyfile(file, out / file.name)


def rewrite_file(
    source: Path, target: Path, tensors: list[tuple[Tensor, Delta | None]], dtype: str, seed: int | None
) -> tuple[int, str]:
    """Write one weight file.

    Returns:
        How many tensors differ, and the xxh3_128 hash of the source.
    """
    differing: set[str] = set()
    with source.open("rb", buffering=0) as old, target.open("wb", buffering=0) as new:
        header = old.read(min((tensor.start for tensor, _ in tensors), default=source.stat().st_size))
        digest = xxhash.xxh3_128(header)
        header = widened_header(header) if dtype == "float32" else header
        new.write(header)

        def write_block(block: Block) -> None:
            if block.change:  # computed in float32, and rounded once
                shape = (block.stop - block.start, *block.tensor.shape[1:])
                values = widen(block.raw, block.tensor.dtype).reshape(shape)
                written = rounded(block, block.change(values, block.start, block.stop), seed)
                if block.tensor.name not in differing and written != stored_as(block):
                    differing.add(block.tensor.name)
            else:
                written = stored_as(block)
            left, position = memoryview(written), block.position
            while left:  # a disk that is nearly full takes a part first
                done = os.pwrite(new.fileno(), left, position)
                left, position = left[done:], position + done

        tracked = track(tensors, source.name, "tensor")
        side_by_side(write_block, read_blocks(old, tracked, digest, dtype, len(header)))
    return len(differing), digest.hexdigest()


def rounded(block: Block, values: "NDArray[np.float32]", seed: int | None) -> bytes:
    """Round the changed numbers of a block to the dtype that is written."""
    if seed is None:
        return narrow(values, block.dtype)
    first = block.start * (values.size // (block.stop - block.start))
    return narrow_by_chance(values, block.dtype, seed, block.tensor.name, first)


def stored_as(block: Block) -> bytes:
    """Return the base's bytes of a block in the dtype that is written."""
    same = block.dtype == block.tensor.dtype
    return block.raw if same else narrow(widen(block.raw, block.tensor.dtype), block.dtype)


def widened_header(header: bytes) -> bytes:
    """Return the header of a safetensors file whose floating-point numbers become float32, in the same order."""
    entries = json.loads(header[8:])
    position = 0
    named = [name for name in entries if name != "__metadata__"]
    for name in sorted(named, key=lambda name: entries[name]["data_offsets"]):
        entry = entries[name]
        start, end = entry["data_offsets"]
        size = (end - start) * growth(entry["dtype"], "float32")
        entry |= {"dtype": stored_dtype(entry["dtype"], "float32"), "data_offsets": [position, position + size]}
        position += size
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of eight bytes
    return len(text).to_bytes(8, "little") + text


def stored_dtype(dtype: str, wanted: str) -> str:
    """Return what a tensor is written in: `wanted` is `base` or `float32`."""
    return "F32" if wanted == "float32" and dtype in DTYPES else dtype


def growth(dtype: str, wanted: str) -> int:
    """Return how many times its bytes a tensor takes then."""
    return 4 // DTYPES[dtype].itemsize if wanted == "float32" and dtype in DTYPES else 1


def read_blocks(
    file: IO[bytes],
    tensors: Iterable[tuple[Tensor, Delta | None]],
    digest: xxhash.xxh3_128,
    dtype: str,
    position: int,
) -> Generator[Block]:
    """Read a file's tensors one after the other, in blocks. One without a delta counts as rows of one number.

    Args:
        file: the base's file, read up to its first tensor.
        tensors: those of the file, in its order.
        digest: gets every byte.
        dtype: merge.dtype.
        position: where the first tensor is written.
    """
    for tensor, delta in tensors:
        change = delta.prepare(tensor) if delta else None
        width = DTYPES[tensor.dtype].itemsize if tensor.dtype in DTYPES else 1
        written, times = stored_dtype(tensor.dtype, dtype), growth(tensor.dtype, dtype)
        for start, stop, size in (tensor if change else tensor._replace(shape=(tensor.size // width,))).blocks():
            raw = file.read(size)
            digest.update(raw)
            yield Block(tensor, start, stop, position, raw, change, written)
            position += size * times


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
