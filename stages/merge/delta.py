"""Delta: what an adapter adds to one tensor, computed for a block of rows at a time.

The operations are those of PEFT's `merge_and_unload`, in its order, so that a float32 model gets the same bits. That
needs the settings of docker/run: with them numpy's matrix product and torch's add in the same order.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from stages.merge.tensors import Tensor

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Change = Callable[[NDArray[np.float32], int, int], NDArray[np.float32]]

LANES = 8  # float32 numbers that torch squares in one AVX2 instruction
STEP = 112  # terms that MKL adds before it starts a new sum: for widths that are multiples of 16, ranks up to 224


class Delta(NamedTuple):
    """The trained tensors for one tensor of the base model.

    LoRA and rsLoRA (https://arxiv.org/abs/2106.09685, 2312.03732) add scale * B * A. DoRA (2402.09353) then scales
    each output to a trained length.

    Args:
        replacement: replaces the base's tensor (`modules_to_save`, `bias`, full fine-tuning).
        lora_a: A, of shape (rank, in).
        lora_b: B, of shape (out, rank).
        bias: is added to the base's bias (`lora_bias`).
        magnitude: DoRA's lengths, one for each output.
        scale: the factor before B * A or the bias.
        transposed: the base's tensor has shape (in, out): embeddings, and the layers of GPT-2.
    """

    replacement: Tensor | None = None
    lora_a: Tensor | None = None
    lora_b: Tensor | None = None
    bias: Tensor | None = None
    magnitude: Tensor | None = None
    scale: float = 1.0
    transposed: bool = False

    def prepare(self, tensor: Tensor) -> "Change":
        """Read what every block needs, and return the function that changes a block of `tensor`."""
        a, b = (part.read() if part else None for part in (self.lora_a, self.lora_b))

        def add(values: "NDArray[np.float32]", start: int, stop: int) -> "NDArray[np.float32]":
            if self.replacement:
                values = self.replacement.read(start, stop)
            if self.bias:
                added = self.bias.read(start, stop)
            elif a is None or b is None:
                return values
            else:
                added = product(b, a[:, start:stop]).T if self.transposed else product(b[start:stop], a)
            added *= np.float32(self.scale)
            values += added
            return values

        if not self.magnitude:
            return add
        magnitude = self.magnitude.read().reshape(-1)
        if self.transposed:
            factors = magnitude / column_norms(tensor, add)
            return lambda values, start, stop: add(values, start, stop) * factors

        def add_and_resize(values: "NDArray[np.float32]", start: int, stop: int) -> "NDArray[np.float32]":
            values = add(values, start, stop)
            values *= (magnitude[start:stop] / row_norms(values))[:, None]
            return values

        return add_and_resize


def product(b: "NDArray[np.float32]", a: "NDArray[np.float32]") -> "NDArray[np.float32]":
    """Multiply two matrices, and add the terms of each number in the order of the rank, STEP by STEP.

    For a single row or column numpy calls a routine that adds in another order, so these are multiplied twice.
    """
    if len(b) == 1:
        return product(np.concatenate([b, b]), a)[:1]
    if a.shape[1] == 1:
        return product(b, np.concatenate([a, a], axis=1))[:, :1]
    total = b[:, :STEP] @ a[:STEP]
    for start in range(STEP, len(a), STEP):
        total += b[:, start : start + STEP] @ a[start : start + STEP]
    return total


def row_norms(values: "NDArray[np.float32]") -> "NDArray[np.float32]":
    """Compute the length of each row, adding as torch does: within lanes, over the lanes, then the rest."""
    squares = values * values
    full = values.shape[1] // LANES
    lanes = np.add.reduce(squares[:, : full * LANES].reshape(len(values), full, LANES), axis=1)
    total = lanes[:, 0].copy()
    for column in (*lanes.T[1:], *squares.T[full * LANES :]):
        total += column
    return np.sqrt(total)


def column_norms(tensor: Tensor, change: "Change") -> "NDArray[np.float32]":
    """Compute the length of each column of the changed tensor, adding row by row as torch does."""
    total = np.zeros((1, *tensor.shape[1:]), np.float32)
    for start, stop, _ in tensor.blocks():
        values = change(tensor.read(start, stop), start, stop)
        total = np.add.reduce(np.concatenate([total, values * values]), axis=0, keepdims=True)
    return np.sqrt(total[0])
