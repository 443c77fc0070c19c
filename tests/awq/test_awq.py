"""AWQ, the command: exactly the expected layers are quantised, the result loads and answers, and bytes repeat."""

import json
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from quantised import linear_layers, packed_layers, scores, tensors

from stages.awq import __main__ as stage
from stages.common import files

if TYPE_CHECKING:
    from torch import Tensor


def check(folder: Path, merged: Path, group_size: int) -> None:
    """Compare a quantised model's files with the merged model's: every linear layer, in groups, and smaller."""
    before, after = tensors(merged), tensors(folder / "models" / "awq")
    layers = linear_layers(merged)
    assert packed_layers(folder / "models" / "awq") == layers
    for name in layers:
        height, width = before[f"{name}.weight"].shape
        assert f"{name}.weight" not in after
        assert after[f"{name}.weight_packed"].shape == (height, width // 8)  # eight weights of 4 bits in one int32
        assert after[f"{name}.weight_scale"].shape == (height, width // group_size)
    found = scores(folder)
    assert found["quantized_modules"] == found["expected_modules"] == len(layers) == 14
    assert found["size_bytes"] == (folder / "models" / "awq" / "model.safetensors").stat().st_size
    assert found["merged_size_bytes"] == (merged / "model.safetensors").stat().st_size
    assert found["size_ratio"] == round(found["size_bytes"] / found["merged_size_bytes"], 6) < 1
    assert 0 <= found["reload_kl_mean"] < 0.001
    assert 0 < found["kl_mean"] <= found["kl_max"]
    known = json.loads((merged.parents[1] / "metrics" / "merge.json").read_text(encoding="utf-8"))
    assert found["kept"] == round(1 - found["kl_mean"] / known["kl_base_mean"], 6)
    assert (found["rows"], found["tokens"]) == (known["rows"], known["tokens"])
    config = json.loads((folder / "models" / "awq" / "config.json").read_text(encoding="utf-8"))
    (group,) = config["quantization_config"]["config_groups"].values()
    assert (group["weights"]["num_bits"], group["weights"]["group_size"]) == (4, group_size)
    assert group["weights"]["symmetric"] is False
    assert config["quantization_config"]["ignore"] == ["lm_head"]
    assert config["dtype"] == "bfloat16"


def test_every_linear_layer_is_quantised_in_groups_of_32(awq: Path, workspace: Path, merged: Path) -> None:
    check(workspace, merged, 32)
    assert scores(workspace)["calibration_rows"] == 16


@pytest.mark.slow
def test_every_linear_layer_is_quantised_in_groups_of_128(quantise: Callable[..., Path], merged: Path) -> None:
    check(quantise({"awq.group_size": 128}), merged, 128)


def test_the_quantised_model_loads_in_transformers_and_answers(awq: Path, merged: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(awq)
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hello!"}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    load = AutoModelForCausalLM.from_pretrained
    quantised, full = (load(folder, dtype=torch.float32).eval() for folder in (awq, merged))
    answer = quantised.generate(**prompt, max_new_tokens=4, min_new_tokens=4, do_sample=False)
    assert answer.shape[1] == prompt["input_ids"].shape[1] + 4
    with torch.inference_mode():
        ours, theirs = (model(**prompt).logits[0].log_softmax(-1) for model in (quantised, full))
    assert not torch.equal(ours, theirs)
    assert (theirs.exp() * (theirs - ours)).sum(-1).mean() < 0.01


@pytest.mark.slow
def test_quantising_again_gives_the_same_bytes(quantise: Callable[..., Path], awq: Path, workspace: Path) -> None:
    folder = quantise({})
    assert files.hashes(folder / "models" / "awq") == files.hashes(awq)
    assert scores(folder) == scores(workspace)


def test_tokenizer_and_template_are_the_merged_models_bytes(awq: Path, merged: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (awq / name).read_bytes() == (merged / name).read_bytes()


@pytest.mark.slow
def test_the_head_of_a_model_with_tied_embeddings_can_be_quantised_too(
    quantise: Callable[..., Path], merged: Path
) -> None:
    folder = quantise({"awq.ignore": [], "awq.samples": 2})
    assert packed_layers(folder / "models" / "awq") == linear_layers(merged) | {"lm_head"}
    assert tensors(folder / "models" / "awq")["model.embed_tokens.weight"].equal(
        tensors(merged)["model.embed_tokens.weight"]
    )
    assert scores(folder)["quantized_modules"] == scores(folder)["expected_modules"] == 15


SCHEMES = {
    "FP8_DYNAMIC": {"awq.samples": 4, "awq.scheme": "FP8_DYNAMIC", "awq.group_size": None},
    "W8A8": {
        "awq.samples": 4,
        "awq.scheme": "W8A8",
        "awq.group_size": None,
        "awq.duo_scaling": None,
        "awq.smoothing_strength": 0.8,
    },
}


@pytest.mark.slow
@pytest.mark.parametrize(("scheme", "stored"), [("FP8_DYNAMIC", "float8_e4m3fn"), ("W8A8", "int8")])
def test_weights_of_8_bits_have_a_scale_for_each_row(
    quantise: Callable[..., Path], merged: Path, scheme: str, stored: str
) -> None:
    folder = quantise(SCHEMES[scheme])
    before, after = tensors(merged), tensors(folder / "models" / "awq")
    for name in linear_layers(merged):
        assert str(after[f"{name}.weight"].dtype) == f"torch.{stored}"
        assert after[f"{name}.weight"].shape == before[f"{name}.weight"].shape
        assert after[f"{name}.weight_scale"].shape == (before[f"{name}.weight"].shape[0], 1)
    assert scores(folder)["quantized_modules"] == 14
    config = json.loads((folder / "models" / "awq" / "config.json").read_text(encoding="utf-8"))
    (group,) = config["quantization_config"]["config_groups"].values()
    assert (group["weights"]["num_bits"], group["weights"]["strategy"]) == (8, "channel")
    assert (group["input_activations"]["num_bits"], group["input_activations"]["dynamic"]) == (8, True)
    hashes = files.hashes(folder / "models" / "awq")
    assert files.hashes(quantise(SCHEMES[scheme]) / "models" / "awq") == hashes


@pytest.mark.slow
def test_the_full_log_of_the_library_is_kept(
    quantise: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOG_FOLDER", str(tmp_path / "logs"))
    quantise({"awq.samples": 2})
    (log,) = (tmp_path / "logs").iterdir()
    text = log.read_text(encoding="utf-8")
    assert "Inferred `SequentialPipeline` for `AWQModifier`" in text  # layer by layer, on any device
    assert "AWQ grid search for model.layers.1.mlp.up_proj: initial error" in text
    assert "Resaved original config" in text  # the log continues until the model is saved


@pytest.mark.slow
def test_a_device_beside_the_host_holds_one_layer_at_a_time_and_changes_nothing(
    quantise: Callable[..., Path], merged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU, weights are copies of those on the host; here they are copies too, and counted."""
    import torch
    from compressed_tensors.offload.cache import CPUCache

    plain = quantise({"awq.samples": 2})
    hashes, found = files.hashes(plain / "models" / "awq"), scores(plain)
    there, peak = 0, 0

    def leave(size: int) -> None:
        nonlocal there
        there -= size

    def visit(cache: CPUCache, tensor: "Tensor | None") -> "Tensor | None":
        nonlocal there, peak
        if tensor is None:
            return None
        copy: Any = tensor.detach().clone()
        if isinstance(tensor, torch.nn.Parameter):
            copy = torch.nn.Parameter(copy, requires_grad=tensor.requires_grad)
        there += copy.nbytes
        peak = max(peak, there)
        weakref.finalize(copy, leave, copy.nbytes)
        return copy

    monkeypatch.setattr(CPUCache, "onload", visit)
    folder = quantise({"awq.samples": 2})
    assert files.hashes(folder / "models" / "awq") == hashes
    assert scores(folder) == found
    weights = {name: 4 * tensor.numel() for name, tensor in tensors(merged).items()}  # in float32
    layer = sum(size for name, size in weights.items() if "layers.0." in name)
    assert layer < peak < 1.1 * layer + weights["model.embed_tokens.weight"] < sum(weights.values())


@pytest.mark.slow
def test_a_prompt_and_the_models_answer_are_in_the_terminal(
    params: Callable[..., Path], succeed: Callable[..., str], inputs: Callable[..., list[str | Path]]
) -> None:
    params({"awq.samples": 2})
    lines = succeed(stage.main, *inputs()).splitlines()
    assert [line for line in lines if line.startswith("prompt: ") and "Write both words in capitals." in line]
    assert [line for line in lines if line.startswith("answer: ")]
