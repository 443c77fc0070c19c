"""Merge: the adapter is added as PEFT itself adds it, into files that are the base's in every other respect."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from stages import merge as stage
from stages.common import files, tokens

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

ALL = {"target_modules": "all-linear", "r": 4, "lora_alpha": 8}
LARGE = ALL | {"lora_alpha": 200}
VARIANTS = {
    "lora": ALL,
    "rslora": ALL | {"use_rslora": True},
    "some layers": {"target_modules": ["q_proj", "down_proj"], "r": 3, "lora_alpha": 5},
    "modules to save": ALL | {"modules_to_save": ["input_layernorm", "norm"]},
    "patterns": ALL | {
        "rank_pattern": {"q_proj": 2, "layers.1.mlp.up_proj": 8},
        "alpha_pattern": {"q_proj": 1, "layers.0.mlp.down_proj": 32},
    },
    "patterns and rslora": ALL | {"use_rslora": True, "rank_pattern": {"k_proj": 2}, "alpha_pattern": {"k_proj": 3}},
}  # fmt: skip


def load(folder: Path) -> "PreTrainedModel":
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def tensors(folder: Path) -> "dict[str, Tensor]":
    from safetensors.torch import load_file

    return {name: tensor for path in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(path).items()}


def adapt(base: Path, out: Path, **config: Any) -> Path:
    """Write an adapter for the model in `base` in which every trainable tensor is far from its initial value."""
    import peft
    import torch

    torch.manual_seed(3)
    model = peft.get_peft_model(load(base), peft.LoraConfig(task_type="CAUSAL_LM", **config))
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.copy_(weight * (1 + 0.2 * torch.rand_like(weight)) + 0.05 * torch.rand_like(weight))
    model.save_pretrained(out)
    return out


def merged_by_peft(base: Path, adapter: Path) -> "dict[str, Tensor]":
    from peft import PeftModel

    return PeftModel.from_pretrained(load(base), adapter).merge_and_unload().state_dict()


@pytest.fixture
def float_base(base: Path, tmp_path: Path) -> Path:
    """The session's base model in float32, its weights in several files."""
    folder = shutil.copytree(base, tmp_path / "base", ignore=shutil.ignore_patterns("*.safetensors"))
    load(base).save_pretrained(folder, max_shard_size="500KB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    return folder


@pytest.fixture
def add(params: Callable[..., Path], succeed: Callable[..., str], prepared: Path) -> Callable[..., Path]:
    """Merge an adapter into a base, and give the merged folder."""

    def add(base: Path, adapter: Path) -> Path:
        folder = params({"merge.rows": 4}).parent
        succeed(stage.main, "--base", base, "--adapter", adapter, "--val", prepared / "val.arrow")
        return folder / "models" / "merged"

    return add


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)
def test_a_float32_model_is_merged_as_by_peft_bit_for_bit(
    add: Callable[..., Path], float_base: Path, tmp_path: Path, config: dict[str, Any]
) -> None:
    import torch

    adapter = adapt(float_base, tmp_path / "adapter", **config)
    expected = merged_by_peft(float_base, adapter)
    before = tensors(float_base)
    found = tensors(add(float_base, adapter))
    assert set(found) == set(before)
    for name, tensor in found.items():
        assert torch.equal(tensor, expected[name]), name
    changed = [name for name, tensor in found.items() if not torch.equal(tensor, before[name])]
    scores = json.loads((tmp_path / "metrics" / "merge.json").read_text())
    assert scores["merged_tensors"] == len(changed) > 0
    assert scores["rows"] == 4


@pytest.mark.parametrize("more", [{}, {"use_rslora": True}, {"rank_pattern": {"q_proj": 2}}])
def test_dora_is_merged_as_by_peft(
    add: Callable[..., Path], float_base: Path, tmp_path: Path, more: dict[str, Any]
) -> None:
    import torch

    adapter = adapt(float_base, tmp_path / "adapter", **ALL, use_dora=True, **more)
    expected = merged_by_peft(float_base, adapter)
    for name, tensor in tensors(add(float_base, adapter)).items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-6, atol=1e-7)


def test_a_bfloat16_model_is_rounded_once(
    add: Callable[..., Path], base: Path, float_base: Path, tmp_path: Path
) -> None:
    import torch

    adapter = adapt(base, tmp_path / "adapter", **ALL)
    expected = merged_by_peft(float_base, adapter)
    for name, tensor in tensors(add(base, adapter)).items():
        assert tensor.dtype == torch.bfloat16
        assert torch.equal(tensor, expected[name].bfloat16()), name


def test_transposed_layers_are_merged_as_by_peft(
    add: Callable[..., Path], base: Path, float_base: Path, tmp_path: Path
) -> None:
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    folder = shutil.copytree(base, tmp_path / "gpt2", ignore=shutil.ignore_patterns("*.safetensors", "*config.json"))
    vocabulary = tensors(base)["model.embed_tokens.weight"].shape[0]
    GPT2LMHeadModel(GPT2Config(vocab_size=vocabulary, n_layer=1, n_head=2, n_embd=32)).save_pretrained(folder)
    shutil.copy(base / "tokenizer_config.json", folder)
    config = json.loads((folder / "generation_config.json").read_text()) | {"eos_token_id": 2}
    (folder / "generation_config.json").write_text(json.dumps(config))
    adapter = adapt(folder, tmp_path / "adapter", target_modules=["c_attn"], r=4, fan_in_fan_out=True)
    expected = merged_by_peft(folder, adapter)
    for name, tensor in tensors(add(folder, adapter)).items():
        assert torch.equal(tensor, expected[name]), name


def test_the_merged_model_is_the_base_in_every_other_respect(merged: Path, base: Path, adapter: Path) -> None:
    from safetensors import safe_open

    assert {path.name for path in merged.iterdir()} == {path.name for path in base.iterdir()} - {"manifest.json"}
    for path in merged.iterdir():
        if path.suffix != ".safetensors":
            assert path.read_bytes() == (base / path.name).read_bytes()
            continue
        with safe_open(path, framework="pt") as new, safe_open(base / path.name, framework="pt") as old:
            assert list(new.keys()) == list(old.keys())
            assert new.metadata() == old.metadata()
            for name in new.keys():  # noqa: SIM118  not a dict
                assert new.get_slice(name).get_shape() == old.get_slice(name).get_shape()
                assert new.get_slice(name).get_dtype() == old.get_slice(name).get_dtype()


def test_files_keep_their_tensors_when_there_are_several(
    add: Callable[..., Path], float_base: Path, adapter: Path
) -> None:
    folder = add(float_base, adapter)
    index = "model.safetensors.index.json"
    assert (folder / index).read_bytes() == (float_base / index).read_bytes()
    places = json.loads((folder / index).read_text())["weight_map"]
    assert {name: tensors_in(folder / file) for file in sorted(set(places.values())) for name in [file]} == {
        file: sorted(name for name, place in places.items() if place == file) for file in set(places.values())
    }


def tensors_in(path: Path) -> list[str]:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return sorted(file.keys())


def test_merging_again_gives_the_same_bytes(
    params: Callable[..., Path], succeed: Callable[..., str], workspace: Path, merged: Path
) -> None:
    folder = params().parent
    for name in ("data", "models"):
        (folder / name).symlink_to(workspace / name)
    succeed(stage.main, "--out", "again")
    assert files.hashes(folder / "again") == files.hashes(merged)
    assert (folder / "metrics" / "merge.json").read_bytes() == (workspace / "metrics" / "merge.json").read_bytes()


def test_the_metrics_have_their_names_and_pass_the_gates(merged: Path, workspace: Path, base: Path) -> None:
    found = json.loads((workspace / "metrics" / "merge.json").read_text())
    assert set(found) == {
        *("base_size_bytes", "kl_max", "kl_mean", "merged_tensors", "rows", "size_bytes", "tokens", "top1_agreement")
    }
    assert 0 <= found["kl_mean"] <= found["kl_max"] < 1e-3
    assert found["top1_agreement"] >= 0.99
    assert found["size_bytes"] == found["base_size_bytes"] == files.size_bytes(base)
    assert found["merged_tensors"] == 14


def test_the_comparison_is_kl_and_top1_over_the_answers_tokens(base: Path, prepared: Path, tmp_path: Path) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoTokenizer

    one = load(base)
    other = PeftModel.from_pretrained(load(base), adapt(base, tmp_path / "adapter", **LARGE)).eval()
    rows = [row["messages"] for row in files.read_rows(prepared / "val.jsonl")]
    rows[0] = [*rows[0], {"role": "user", "content": "And?"}, {"role": "assistant", "content": "No."}]
    tokenizer = AutoTokenizer.from_pretrained(base)
    divergences, same, prepared_rows = [], [], []
    for row in rows:
        encoded = tokenizer.apply_chat_template(
            row, return_dict=True, return_assistant_tokens_mask=True, return_tensors="pt"
        )
        mask = torch.as_tensor(encoded["assistant_masks"]).reshape(-1)
        prepared_rows.append(tokens.TokenRow(encoded["input_ids"][0].tolist(), mask.tolist()))
        answer = mask[1:].bool()
        with torch.inference_mode():
            p, q = (model(encoded["input_ids"]).logits[0, :-1][answer].double().softmax(-1) for model in (one, other))
        divergences += (p * (p / q).log()).sum(-1).tolist()
        same += (p.argmax(-1) == q.argmax(-1)).tolist()
    found = stage.compare(one, other, prepared_rows, batch_size=3)
    assert found["tokens"] == len(same)
    assert found["kl_mean"] == pytest.approx(sum(divergences) / len(divergences), rel=1e-4, abs=1e-7)
    assert found["kl_max"] == pytest.approx(max(divergences), rel=1e-4, abs=1e-7)
    assert found["top1_agreement"] == pytest.approx(sum(same) / len(same), abs=1e-6)
    assert found["kl_mean"] > 1e-3
    alone = stage.compare(one, one, prepared_rows, batch_size=3)
    assert (alone["kl_mean"], alone["kl_max"], alone["top1_agreement"]) == (0, 0, 1)


def spoil(adapter: Path, out: Path, change: "Callable[[dict[str, Tensor]], None]") -> Path:
    from safetensors.torch import save_file

    shutil.copytree(adapter, out)
    parts = tensors(out)
    change(parts)
    save_file({name: part.clone() for name, part in parts.items()}, out / "adapter_model.safetensors")
    return out


EXTRA = "base_model.model.model.layers.9.x.lora_A.weight"
LAYER = "base_model.model.model.layers.0.self_attn.q_proj"
SHAPE = "model.layers.0.self_attn.q_proj.weight: shape (128, 128), adapter (128, 64); was it trained on another base?"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda parts: parts.update({f"{LAYER}.lora_A.weight": parts[f"{LAYER}.lora_A.weight"][:, :64]}), SHAPE),
        (
            lambda parts: parts.update({f"{LAYER}.weight": parts[f"{LAYER}.lora_A.weight"].repeat(32, 1)[:, :64]}),
            SHAPE,
        ),
        (
            lambda parts: parts.update({EXTRA: parts[f"{LAYER}.lora_A.weight"]}),
            "spoiled: model.layers.9.x.lora_A.weight: fits no tensor of BASE (1 such tensors)",
        ),
        (
            lambda parts: parts.pop(f"{LAYER}.lora_B.weight"),
            "spoiled: model.layers.0.self_attn.q_proj.lora_A.weight: fits no tensor of BASE (1 such tensors)",
        ),
    ],
)
def test_an_adapter_that_does_not_fit_is_an_error(
    params: Callable[..., Path],
    fail: Callable[..., str],
    prepared: Path,
    base: Path,
    adapter: Path,
    change: "Callable[[dict[str, Tensor]], None]",
    message: str,
) -> None:
    folder = params().parent
    spoil(adapter, folder / "spoiled", change)
    arguments = ("--base", base, "--adapter", "spoiled", "--val", prepared / "val.arrow")
    assert fail(stage.main, *arguments) == message.replace("BASE", str(base))
    assert sorted(path.name for path in folder.iterdir()) == ["models", "params.yaml", "spoiled"]
    assert list((folder / "models").iterdir()) == []


@pytest.mark.parametrize(
    ("missing", "command"),
    [
        ("models/base", "dvc repro base"),
        ("models/adapter/adapter_config.json", "dvc repro train"),
        ("models/adapter/adapter_model.safetensors", "dvc repro train"),
        ("data/prepared/val.arrow", "dvc repro"),
    ],
)
def test_missing_inputs_are_named(
    params: Callable[..., Path], fail: Callable[..., str], workspace: Path, adapter: Path, missing: str, command: str
) -> None:
    folder = params().parent
    shutil.copytree(workspace / "models", folder / "models", ignore=shutil.ignore_patterns("merged", "awq"))
    shutil.copytree(workspace / "data", folder / "data")
    path = folder / missing
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert fail(stage.main) == f"{missing}: no such file or folder; run `{command}` first"
    assert not (folder / "models" / "merged").exists()
