"""Model to train: every weight with full fine-tuning, or an adapter to start from."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from training import scores, weights

from stages.merge import __main__ as merge

pytestmark = pytest.mark.slow


def test_full_fine_tuning_trains_every_weight_and_merge_copies_them(
    train: Callable[..., Path], succeed: Callable[..., str], base: Path, prepared: Path
) -> None:
    from safetensors.torch import load_file

    folder = train({"train.method": "full", "train.sft.learning_rate": 0.0005})
    found, before = (load_file(path / "model.safetensors") for path in (folder / "models" / "adapter", base))
    assert {name: (part.shape, part.dtype) for name, part in found.items()} == {
        name: (part.shape, part.dtype) for name, part in before.items()
    }
    # Not biases and norms: after so few steps some changes are lost when weights are rounded to bfloat16.
    assert all(not part.equal(before[name]) for name, part in found.items() if part.ndim == 2)
    assert scores(folder)["trainable_parameters"] == scores(folder)["total_parameters"]
    succeed(merge.main, "--base", base, "--val", prepared / "val.arrow")
    merged = load_file(folder / "models" / "merged" / "model.safetensors")
    assert all(part.equal(found[name]) for name, part in merged.items())
    measured = json.loads((folder / "metrics" / "merge.json").read_text(encoding="utf-8"))
    assert (measured["top1_agreement"], measured["kl_max"]) == (1.0, 0.0)


def test_it_starts_from_an_adapter(train: Callable[..., Path], tmp_path: Path, adapter: Path) -> None:
    start = tmp_path / "data" / "start" / "mine"
    shutil.copytree(adapter, start)
    folder = train({"train.sft.learning_rate": 1e-9, "train.sft.max_steps": 1, "train.resume_from": "mine"})
    before, after = weights(start), weights(folder / "models" / "adapter")
    assert all(part.allclose(after[name], atol=1e-6) for name, part in before.items())
