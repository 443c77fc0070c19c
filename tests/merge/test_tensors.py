"""Tensors: where they lie in the files, and their rows as float32."""

from pathlib import Path

import numpy as np
import pytest
from adapters import tensors

from stages.merge.tensors import Tensor, list_tensors


def test_tensors_are_listed_in_file_order_and_read_as_float32(base: Path) -> None:
    expected = tensors(base)
    listed = list_tensors(base)
    assert {tensor.name for tensor in listed} == set(expected)
    assert [tensor.start for tensor in listed] == sorted(tensor.start for tensor in listed)
    for tensor in listed:
        values = expected[tensor.name].float().numpy()
        assert tensor.shape == values.shape
        np.testing.assert_array_equal(tensor.read(), values)
        np.testing.assert_array_equal(tensor.read(3, 7), values[3:7])


@pytest.mark.parametrize("shape", [(7, 5), (1, 999), (1000, 3), (12,), (), (0, 4)])
def test_blocks_cover_all_rows_once(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stages.merge.tensors.BLOCK", 64)
    size = 2 * int(np.prod(shape))
    blocks = list(Tensor(Path("file"), "name", "BF16", shape, 0, size).blocks())
    assert sum(block[2] for block in blocks) == size
    rows = [row for start, stop, _ in blocks for row in range(start, stop)]
    assert rows == list(range(shape[0] if shape else 1))
