"""Sums: what becomes of one tensor when an adapter is merged, block of rows by block of rows.

They are PEFT's `merge_and_unload` in its order, so that a float32 model gets the very same bits. That takes the
settings of docker/run, under which numpy's matrix product and torch's both add up one by one.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from stages.common import weights

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from stages.common.shards import Change
    from stages.common.weights import Tensor

LANES = 8  # float32 numbers that torch squares at once with AVX2
STEP = 112  # products that MKL adds up before it starts anew: at widths of 16 and its multiples, ranks up to 224


class Sum(NamedTuple):
    """Itself or `whole`, plus `scale` times a product or a bias, and along a magnitude where there is one.

    LoRA and rsLoRA (https://arxiv.org/abs/2106.09685, 2312.03732) have `up`, of shape (out, rank), and `down`, of
    (rank, in); DoRA (2402.09353) has a `magnitude`, of (out,), too. What is `transposed` lies as (in, out):
    embeddings, and the layers of GPT-2.
    """

    whole: "Tensor | None" = None
    up: "Tensor | None" = None
    down: "Tensor | None" = None
    bias: "Tensor | None" = None
    magnitude: "Tensor | None" = None
    scale: float = 1.0
    transposed: bool = False

    def parts(self) -> "list[Tensor]":
        """Give the tensors that were trained."""
        return [part for part in self[:5] if part]

    def change(self, tensor: "Tensor") -> "Change":
        """Read what every block of `tensor` needs, and give the function that changes a block."""
        add = self.addition()
        if not self.magnitude:
            return add
        magnitude = self.magnitude.read().reshape(-1)
        if self.transposed:
            factor = magnitude / column_norms(tensor, add)
            return lambda values, start, stop: add(values, start, stop) * factor
        return lambda values, start, stop: lengthened(add(values, start, stop), magnitude[start:stop])

    def addition(self) -> "Change":
        """Give the function that changes a block, but for the magnitude."""
        delta = self.delta()

        def add(values: "NDArray[np.float32]", start: int, stop: int) -> "NDArray[np.float32]":
            if self.whole:
                values = self.whole.read(start, stop)
            if delta:
                added = delta(start, stop)
                added *= np.float32(self.scale)
                values += added
            return values

        return add

    def delta(self) -> "Callable[[int, int], NDArray[np.float32]] | None":
        """Give the function that computes what is added to a block, before it is scaled."""
        if self.bias:
            return self.bias.read
        if not self.up or not self.down:
            return None
        up, down = self.up, self.down.read()
        if not self.transposed:
            return lambda start, stop: product(up.read(start, stop), down)
        across = up.read()
        return lambda start, stop: product(across, down[:, start:stop]).T


def product(up: "NDArray[np.float32]", down: "NDArray[np.float32]") -> "NDArray[np.float32]":
    """Multiply two matrices, each sum in the order of the rank, STEP by STEP.

    For a single row or column numpy calls a routine that adds up in another order, so those are multiplied twice.
    """
    if len(up) == 1:
        return product(np.concatenate([up, up]), down)[:1]
    if down.shape[1] == 1:
        return product(up, np.concatenate([down, down], axis=1))[:, :1]
    total = up[:, :STEP] @ down[:STEP]
    for start in range(STEP, len(down), STEP):
        total += up[:, start : start + STEP] @ down[start : start + STEP]
    return total


def lengthened(values: "NDArray[np.float32]", lengths: "NDArray[np.float32]") -> "NDArray[np.float32]":
    """Give rows the lengths that they are to have."""
    values *= (lengths / row_norms(values))[:, None]
    return values


def row_norms(values: "NDArray[np.float32]") -> "NDArray[np.float32]":
    """Give the length of each row, added up as torch does: in lanes, then over the lanes, then what is left."""
    squares = values * values
    whole = values.shape[1] // LANES
    lanes = np.add.reduce(squares[:, : whole * LANES].reshape(len(values), whole, LANES), axis=1)
    total = lanes[:, 0].copy()
    for column in (*lanes.T[1:], *squares.T[whole * LANES :]):
        total += column
    return np.sqrt(total)


def column_norms(tensor: "Tensor", change: "Change") -> "NDArray[np.float32]":
    """Give the length of each column of the changed tensor, added up row by row as torch does."""
    total = np.zeros((1, *tensor.shape[1:]), np.float32)
    for start, stop, _ in weights.blocks(tensor):
        values = change(tensor.read(start, stop), start, stop)
        total = np.add.reduce(np.concatenate([total, values * values]), axis=0, keepdims=True)
    return np.sqrt(total[0])
