"""Ignored layers: what awq.ignore names stays in 16 bits, and everything else is quantised and loads."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from quantised import linear_layers, nearest_merge, packed_layers, scores, tensors

from stages.awq import __main__ as stage
from stages.awq.ignored import split_layers
from stages.awq.model import load_outline


def parts(*names: str, layers: tuple[int, ...] = (0, 1)) -> set[str]:
    blocks = {"q": "self_attn", "k": "self_attn", "v": "self_attn", "o": "self_attn"}
    return {f"model.layers.{layer}.{blocks.get(name, 'mlp')}.{name}_proj" for layer in layers for name in names}


W8A8 = {"awq.scheme": "W8A8", "awq.group_size": None, "awq.duo_scaling": None, "awq.smoothing_strength": 0.8}
FP8 = {"awq.scheme": "FP8_DYNAMIC", "awq.group_size": None, "awq.duo_scaling": True}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ignore", "kept", "changes"),
    [
        (["re:.*down_proj"], parts("down"), {}),
        (["re:.*(q|k|v)_proj"], parts("q", "k", "v"), {"awq.scheme": "W4A16", "awq.duo_scaling": True}),
        (["re:.*o_proj", "model.layers.1.mlp.down_proj"], parts("o") | parts("down", layers=(1,)), FP8),
        (["re:.*layers\\.0\\.mlp.*", "re:.*o_proj"], parts("gate", "up", "down", layers=(0,)) | parts("o"), {}),
        (["re:.*(q|k|v|down)_proj"], parts("q", "k", "v", "down"), W8A8),
    ],
    ids=["down", "q, k and v", "o and one down", "a block", "W8A8"],
)
def test_ignored_layers_keep_their_bytes_and_the_others_are_quantised(
    quantise: Callable[..., Path], merged: Path, ignore: list[str], kept: set[str], changes: dict[str, Any]
) -> None:
    folder = quantise({"awq.ignore": ["lm_head", *ignore], "awq.samples": 2} | changes)
    before, after = nearest_merge(merged.parent), tensors(folder / "models" / "awq")
    for name in kept:
        assert after[f"{name}.weight"].equal(before[f"{name}.weight"])
    quantised = {name.removesuffix(".weight_scale") for name in after if name.endswith(".weight_scale")}
    assert quantised == linear_layers(merged) - kept
    assert scores(folder)["quantized_modules"] == scores(folder)["expected_modules"] == 14 - len(kept)
    assert 0 <= scores(folder)["reload_kl_mean"] < 0.001


@pytest.mark.slow
def test_where_only_the_head_is_quantised_nothing_is_smoothed(quantise: Callable[..., Path], merged: Path) -> None:
    folder = quantise({"awq.ignore": ["re:.*_proj$"], "awq.samples": 2})
    before, after = nearest_merge(merged.parent), tensors(folder / "models" / "awq")
    assert packed_layers(folder / "models" / "awq") == {"lm_head"}
    assert all(after[name].equal(before[name]) for name in tensors(merged))


@pytest.mark.slow
def test_an_ignored_layer_beside_quantised_ones_is_scaled_with_them_and_a_note_tells(
    params: Callable[..., Path],
    succeed: Callable[..., str],
    merged: Path,
    inputs: Callable[..., list[str | Path]],
    tmp_path: Path,
) -> None:
    """AWQ divides the norm, so every reader of it must be multiplied, or the model would compute something else."""
    name = "model.layers.0.self_attn.q_proj"
    params({"awq.ignore": ["lm_head", name], "awq.samples": 2})
    text = succeed(stage.main, *inputs())
    assert f"note: {name}: ignored, but not all that vLLM joins with them" in text
    before, after = tensors(merged), tensors(tmp_path / "models" / "awq")
    norm = "model.layers.0.input_layernorm.weight"
    scales = before[norm].float() / after[norm].float()
    weight = before[f"{name}.weight"].float() * scales
    assert after[f"{name}.weight"].float().sub(weight).abs().max() < 0.02 * weight.abs().max()
    assert packed_layers(tmp_path / "models" / "awq") == linear_layers(merged) - {name}


def test_layers_that_vllm_joins_are_all_quantised_or_none(merged: Path) -> None:
    outline, everything = load_outline(merged, "dvc repro merge"), linear_layers(merged)
    assert split_layers(outline, everything) == []
    assert split_layers(outline, everything - parts("q", "k", "v", "down") - parts("gate", "up", layers=(1,))) == []
    assert split_layers(outline, everything - parts("q", layers=(1,)) - parts("up", layers=(0,))) == [
        "model.layers.0.mlp.up_proj",
        "model.layers.1.self_attn.q_proj",
    ]
