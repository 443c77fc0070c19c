"""Proof: a weight beside the float32 merge is counted, and rounding alone is not."""

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from adapters import ALL, adapt, load, merge, tensors

from stages.merge.proof import misplaced

if TYPE_CHECKING:
    from peft import PeftModel

LAYER = "model.layers.1.mlp.up_proj.weight"


def trained(base: Path, adapter: Path) -> "PeftModel":
    from peft import PeftModel

    return PeftModel.from_pretrained(load(base), adapter)


@pytest.mark.parametrize(("units", "wrong"), [(0, 0), (1, 3), (-1, 3)])
def test_a_weight_one_unit_away_is_counted(base: Path, tmp_path: Path, units: int, wrong: int) -> None:
    import torch
    from safetensors.torch import save_file

    adapter = adapt(base, tmp_path / "adapter", **ALL)
    merge(base, adapter, tmp_path / "merged")
    found = tensors(tmp_path / "merged")
    bits = found[LAYER].view(torch.int16)
    bits[5, :3] += units
    save_file(found, tmp_path / "merged" / "model.safetensors", {"format": "pt"})
    found = misplaced(trained(base, adapter), tmp_path / "merged", nearest=True)
    assert found == {"checked_tensors": 14, "misplaced_weights": wrong}


@pytest.mark.parametrize(("units", "wrong"), [(0, 0), (2, 3), (-2, 3)])
def test_after_rounding_by_chance_one_unit_is_not_counted_and_two_are(
    base: Path, tmp_path: Path, units: int, wrong: int
) -> None:
    import torch
    from safetensors.torch import save_file

    adapter = adapt(base, tmp_path / "adapter", **ALL)
    merge(base, adapter, tmp_path / "merged", seed=7)
    found = tensors(tmp_path / "merged")
    assert misplaced(trained(base, adapter), tmp_path / "merged", nearest=True)["misplaced_weights"] > 1000
    found[LAYER].view(torch.int16)[5, :3] += units
    save_file(found, tmp_path / "merged" / "model.safetensors", {"format": "pt"})
    assert misplaced(trained(base, adapter), tmp_path / "merged", nearest=False)["misplaced_weights"] == wrong


def test_the_base_instead_of_the_merge_is_counted(base: Path, tmp_path: Path) -> None:
    adapter = adapt(base, tmp_path / "adapter", **ALL)
    assert misplaced(trained(base, adapter), base, nearest=False)["misplaced_weights"] > 1000


def test_layers_that_are_computed_in_another_way_are_not_checked(base: Path, tmp_path: Path) -> None:
    adapter = adapt(base, tmp_path / "adapter", **ALL, use_dora=True)
    merge(base, adapter, tmp_path / "merged")
    assert misplaced(trained(base, adapter), tmp_path / "merged", nearest=True)["checked_tensors"] == 0
