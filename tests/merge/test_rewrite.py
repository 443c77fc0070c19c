"""Rewrite: numbers are stored as torch stores them, and neither blocks nor threads change a byte."""

from pathlib import Path

import numpy as np
import pytest
from adapters import ALL, adapt, merge

from stages.common import files
from stages.merge.rounding import narrow
from stages.merge.tensors import widen


@pytest.mark.parametrize(("name", "kind"), [("BF16", "bfloat16"), ("F16", "float16"), ("F32", "float32")])
def test_numbers_are_rounded_and_read_as_by_torch(name: str, kind: str) -> None:
    import torch

    bits = np.random.default_rng(7).integers(0, 2**32, 200_000, np.uint32)
    ties = (bits & 0xFFFF0000) | 0x8000  # half way between two bfloat16 numbers
    values = np.concatenate([bits, ties, ties + np.uint32(1), ties - np.uint32(1)]).view(np.float32)
    special = np.array([0.0, -0.0, np.inf, -np.inf, 3.4e38, -3.4e38, 65519, 65520, 1e-45, 6e-8, 2e-8], np.float32)
    values = np.concatenate([values[np.isfinite(values)], special])
    expected = torch.from_numpy(values).to(getattr(torch, kind))
    stored = narrow(values, name)
    assert stored == expected.view(torch.uint8).numpy().tobytes()
    np.testing.assert_array_equal(widen(stored, name), expected.float().numpy())


@pytest.mark.parametrize("seed", [None, 7])
def test_other_blocks_and_one_thread_give_the_same_bytes(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int | None
) -> None:
    adapter = adapt(base, tmp_path / "adapter", **ALL, use_dora=True)
    merge(base, adapter, tmp_path / "one", seed)
    monkeypatch.setattr("stages.merge.tensors.BLOCK", 700)
    monkeypatch.setattr("stages.merge.rewrite.WORKERS", 1)
    merge(base, adapter, tmp_path / "other", seed)
    assert files.hashes(tmp_path / "one") == files.hashes(tmp_path / "other")
