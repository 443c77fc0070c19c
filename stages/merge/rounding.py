"""Rounding: float32 numbers as they are stored, to the nearest number or, by chance, to one of the two beside them.

A small adapter changes most weights by less than half a unit in their last place. Rounded to the nearest number, such
a weight stays what it was, and what was trained is lost. Rounded up or down by chance, each with the probability that
its distance gives, the weights of a layer keep the change on average, for a little noise
(https://arxiv.org/abs/1502.02551).
"""

from typing import TYPE_CHECKING

import numpy as np
import xxhash

from stages.merge.tensors import DTYPES

if TYPE_CHECKING:
    from numpy.typing import NDArray

LOST = {"BF16": 16, "F16": 13}  # bits of a float32 that the stored number does not have
DRAWN = 16  # random numbers of 16 bits that Philox computes in one step


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


def narrow_by_chance(values: "NDArray[np.float32]", dtype: str, seed: int, name: str, first: int) -> bytes:
    """Round float32 numbers to one of the two stored numbers beside them; what is stored exactly stays.

    Args:
        values: numbers of one tensor, in its order.
        dtype: what they are stored in; float32 is not rounded.
        seed: of the random numbers.
        name: of the tensor. Each number of each tensor has its own random number, however blocks are cut.
        first: position of the first of them in the tensor.
    """
    if dtype not in LOST:
        return narrow(values, dtype)
    lost = LOST[dtype]
    bits = np.ascontiguousarray(values).view(np.uint32).reshape(-1)
    # A sum above the lost bits carries over into the last one that is kept: with the probability that they stand for.
    rounded = bits + (random_bits(seed, name, first, bits.size) >> np.uint16(16 - lost))
    rounded &= np.uint32(0xFFFFFFFF << lost & 0xFFFFFFFF)
    return narrow(rounded.view(np.float32), dtype)


def random_bits(seed: int, name: str, first: int, count: int) -> "NDArray[np.uint16]":
    """Draw `count` numbers of 16 bits, those from position `first` on of a tensor's own."""
    key = int.from_bytes(xxhash.xxh3_128(f"{seed} {name}".encode()).digest(), "little")
    skipped = first % DRAWN
    generator = np.random.Philox(key=key).advance(first // DRAWN)
    return generator.random_raw(-(-(skipped + count) // 4)).astype("<u8").view("<u2")[skipped : skipped + count]
