"""Rounding by chance: to one of the two numbers beside, as often as the distance says, and each number by itself."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from adapters import adapt, load, merge

from stages.merge.rounding import narrow_by_chance, random_bits
from stages.merge.tensors import widen

if TYPE_CHECKING:
    from numpy.typing import NDArray


def rounded(values: Any, dtype: str, seed: int = 7, name: str = "weight", first: int = 0) -> "NDArray[np.float32]":
    return widen(narrow_by_chance(np.asarray(values, np.float32), dtype, seed, name, first), dtype)


@pytest.mark.parametrize(("dtype", "unit"), [("BF16", 2**-7), ("F16", 2**-10)])
@pytest.mark.parametrize("share", [0.0, 0.125, 0.5, 0.875])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_number_goes_up_as_often_as_its_distance_says(dtype: str, unit: float, share: float, sign: int) -> None:
    found = sign * rounded(np.full(100_000, sign * (1 + share * unit)), dtype)
    assert set(found) <= {1.0, 1 + unit}
    assert np.mean(found > 1) == pytest.approx(share, abs=0.01)


@pytest.mark.parametrize("dtype", ["BF16", "F16"])
def test_what_is_stored_exactly_stays_and_nothing_leaves_its_two_neighbours(dtype: str) -> None:
    values = np.random.default_rng(7).normal(0, 0.05, 50_000).astype(np.float32)
    exact = rounded(values, dtype)
    np.testing.assert_array_equal(rounded(exact, dtype, seed=8), exact)
    unit = np.exp2(np.floor(np.log2(np.abs(values))) - {"BF16": 7, "F16": 10}[dtype]).clip(2.0**-24)
    assert (np.abs(exact - values) <= unit).all()


def test_every_position_tensor_and_seed_has_its_own_numbers() -> None:
    drawn = random_bits(7, "weight", 0, 1000)
    for first in (1, 15, 16, 17, 333):
        np.testing.assert_array_equal(random_bits(7, "weight", first, 400), drawn[first : first + 400])
    for other in (random_bits(8, "weight", 0, 1000), random_bits(7, "bias", 0, 1000)):
        assert (other == drawn).mean() < 0.01
    assert (drawn[16:] == drawn[:-16]).mean() < 0.01


def test_a_small_change_is_kept_on_average_and_lost_by_the_nearest(base: Path, tmp_path: Path) -> None:
    """The output of a layer: what the adapter adds to it, and what the merged weights add."""
    import torch

    config = {"target_modules": ["down_proj"], "r": 4, "lora_alpha": 0.002}
    adapter = adapt(base, tmp_path / "adapter", **config)
    layer = "model.layers.0.mlp.down_proj.weight"
    before = load(base).state_dict()[layer]
    by_chance = merge(base, adapter, tmp_path / "chance", seed=7)[layer].float() - before
    nearest = merge(base, adapter, tmp_path / "nearest")[layer].float() - before
    from peft import PeftModel

    exact = PeftModel.from_pretrained(load(base), adapter).merge_and_unload().state_dict()[layer] - before
    wanted = exact.mean()
    assert torch.sign(wanted) == torch.sign(by_chance.mean())
    assert by_chance.mean().item() == pytest.approx(wanted.item(), rel=0.3)
    assert abs(nearest.mean().item()) < 0.5 * abs(wanted.item())
