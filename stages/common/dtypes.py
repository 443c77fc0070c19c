"""Dtypes: numbers as they are stored, made float32 to be worked with, and back.

numpy does not know bfloat16: it is the upper half of a float32.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

# By their names in safetensors files; a bfloat16 as the integer of its bits.
STORED: dict[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype("<u2")}


def widen(raw: bytes, dtype: str) -> "NDArray[np.float32]":
    """Give stored numbers as float32, exactly."""
    stored = np.frombuffer(raw, STORED[dtype])
    if dtype != "BF16":
        return stored.astype(np.float32)
    bits = stored.astype(np.uint32)
    bits <<= 16
    return bits.view(np.float32)


def narrow(values: "NDArray[np.float32]", dtype: str) -> bytes:
    """Give numbers as they are stored: the nearest one, of two as near the one whose last bit is 0."""
    if dtype != "BF16":
        with np.errstate(over="ignore"):
            return values.astype(STORED[dtype]).tobytes()
    bits = np.ascontiguousarray(values).view(np.uint32)
    rounded = bits >> 16
    rounded &= 1
    rounded += 0x7FFF
    rounded += bits
    rounded >>= 16
    return rounded.astype(np.uint16).tobytes()
