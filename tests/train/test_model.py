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


@pytest.mark.parametrize("name", ["embed_tokens", "lm_head"])
def test_a_tied_embedding_is_trained_once_merged_once_and_stays_tied(
    train: Callable[..., Path], succeed: Callable[..., str], base: Path, prepared: Path, tmp_path: Path, name: str
) -> None:
    import torch
    from adapters import load
    from peft import PeftModel

    tying = {"train.lora.modules_to_save": [name], "train.lora.ensure_weight_tying": True}
    folder = train(tying | {"merge.seed": None})  # to the nearest number
    found, before = weights(folder / "models" / "adapter"), load(base).get_input_embeddings().weight
    head, embedding = (found[f"base_model.model.{part}.weight"] for part in ("lm_head", "model.embed_tokens"))
    assert head.equal(embedding)
    assert (embedding - before).abs().max() > 0.002
    succeed(merge.main, "--base", base, "--val", prepared / "val.arrow")
    measured = json.loads((folder / "metrics" / "merge.json").read_text(encoding="utf-8"))
    assert measured["kl_max"] < 1e-3
    merged = load(folder / "models" / "merged")
    assert merged.lm_head.weight is merged.model.embed_tokens.weight
    assert merged.lm_head.weight.equal(embedding.to(torch.bfloat16).float())
    ids = torch.arange(3, 40)[None]
    with torch.no_grad():
        expected = PeftModel.from_pretrained(load(base), folder / "models" / "adapter").eval()(input_ids=ids).logits
        actual = merged(input_ids=ids).logits
    assert torch.allclose(actual, expected, atol=0.02)
    start = tmp_path / "data" / "start" / "mine"
    shutil.copytree(folder / "models" / "adapter", start)
    shutil.rmtree(folder / "models")
    again = train(tying | {"train.sft.learning_rate": 1e-9, "train.sft.max_steps": 1, "train.resume_from": "mine"})
    after = weights(again / "models" / "adapter")
    assert all(part.allclose(after[key], atol=1e-6) for key, part in found.items())
