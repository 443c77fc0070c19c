"""Messages of merge: what cannot be merged is an error that names file, tensor or key, and nothing is written."""

import re
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from adapters import ALL, adapt, load

from stages.common import trained_on
from stages.merge import __main__ as stage

if TYPE_CHECKING:
    from torch import Tensor

LAYER = "model.layers.0.self_attn.q_proj"
KEY = f"base_model.model.{LAYER}"
A, B = f"{KEY}.lora_A.weight", f"{KEY}.lora_B.weight"
OTHER_BASE = "; run `dvc repro train` on this base model"
UNUSED = "; train without it, or on this base model"


class Inputs(NamedTuple):
    """What a case starts from: the session's base model and adapter, and a folder for what it makes of them."""

    base: Path
    adapter: Path
    folder: Path


Build = Callable[[Inputs], tuple[Path, Path]]  # makes a base and what was trained on it
Change = Callable[["dict[str, Tensor]"], object]


def changed(change: Change) -> Build:
    """The adapter with other tensors."""

    def build(inputs: Inputs) -> tuple[Path, Path]:
        out = shutil.copytree(inputs.adapter, inputs.folder / "changed")
        rewrite(out / "adapter_model.safetensors", change)
        return inputs.base, Path("changed")

    return build


def rewrite(file: Path, change: Change) -> None:
    from safetensors.torch import load_file, save_file

    parts = load_file(file)
    change(parts)
    save_file({name: part.clone() for name, part in parts.items()}, file)


def configured(**config: Any) -> Build:
    """An adapter with another config."""

    def build(inputs: Inputs) -> tuple[Path, Path]:
        adapt(inputs.base, inputs.folder / "adapter", **{"target_modules": ["q_proj"], "r": 4} | config)
        return inputs.base, Path("adapter")

    return build


def another_base(change: Callable[[Path], object]) -> Build:
    """The adapter beside a changed copy of its base model."""

    def build(inputs: Inputs) -> tuple[Path, Path]:
        change(shutil.copytree(inputs.base, inputs.folder / "base"))
        return Path("base"), inputs.adapter

    return build


def fully_trained(change: Change) -> Build:
    """A model after full fine-tuning, with other tensors."""

    def build(inputs: Inputs) -> tuple[Path, Path]:
        out = inputs.folder / "full"
        out.mkdir()
        for name in ("config.json", "model.safetensors"):
            shutil.copy(inputs.base / name, out)
        rewrite(out / "model.safetensors", change)
        trained_on.note(inputs.base, out)
        return inputs.base, Path("full")

    return build


def packed_experts(inputs: Inputs) -> tuple[Path, Path]:
    import transformers

    sizes: dict[str, Any] = {"vocab_size": 80, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1}
    heads: dict[str, Any] = {"num_attention_heads": 2, "num_key_value_heads": 1, "num_local_experts": 2}
    model = transformers.MixtralForCausalLM(transformers.MixtralConfig(**sizes, **heads))
    model.save_pretrained(inputs.folder / "base")
    adapt(inputs.folder / "base", inputs.folder / "adapter", target_parameters=["mlp.experts.gate_up_proj"], r=2)
    return Path("base"), Path("adapter")


def loha(inputs: Inputs) -> tuple[Path, Path]:
    import peft

    config = peft.LoHaConfig(task_type="CAUSAL_LM", target_modules=["q_proj"])
    peft.get_peft_model(load(inputs.base), config).save_pretrained(inputs.folder / "adapter")
    trained_on.note(inputs.base, inputs.folder / "adapter")
    return inputs.base, Path("adapter")


def fp8_base(inputs: Inputs) -> tuple[Path, Path]:
    import torch

    shutil.copytree(inputs.base, inputs.folder / "base")
    adapt(inputs.base, inputs.folder / "adapter", **ALL)

    def convert(parts: "dict[str, Tensor]") -> None:
        parts[f"{LAYER}.weight"] = parts[f"{LAYER}.weight"].to(torch.float8_e4m3fn)

    rewrite(inputs.folder / "base" / "model.safetensors", convert)
    trained_on.note(inputs.folder / "base", inputs.folder / "adapter")
    return Path("base"), Path("adapter")


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def cut(length: int) -> Callable[[Path], object]:
    def change(base: Path) -> None:
        path = base / "model.safetensors"
        path.write_bytes(path.read_bytes()[:length])

    return change


TIED = (
    "adapter: model.embed_tokens.weight: BASE uses it for input and output (tie_word_embeddings), and the adapter "
    "changes one of the two; train without it"
)
DAMAGED = "base/model.safetensors: damaged (Error while deserializing header: ANY); run `dvc repro` to make it again"
CASES: dict[str, tuple[Build, str]] = {
    "width of A": (
        changed(lambda parts: parts.update({A: parts[A][:, :64]})),
        f"{LAYER}.weight: shape (128, 128), adapter (128, 64){OTHER_BASE}",
    ),
    "width of a replacement": (
        changed(lambda parts: parts.update({f"{KEY}.weight": parts[A].repeat(32, 1)[:, :64]})),
        f"{LAYER}.weight: shape (128, 128), adapter (128, 64){OTHER_BASE}",
    ),
    "rank": (
        changed(lambda parts: parts.update({A: parts[A][:3]})),
        f"{LAYER}.weight: shape (128, 128), adapter (128, 4) by (3, 128){OTHER_BASE}",
    ),
    "rank 0": (
        changed(lambda parts: parts.update({A: parts[A][:0]})),
        f"{LAYER}.weight: shape (128, 128), adapter (128, 4) by (0, 128){OTHER_BASE}",
    ),
    "magnitude": (
        changed(lambda parts: parts.update({f"{KEY}.lora_magnitude_vector": parts[A][0, :9]})),
        f"{LAYER}.weight: shape (128, 128), adapter (9,){OTHER_BASE}",
    ),
    "unknown layer": (
        changed(lambda parts: parts.update({f"{KEY}9.lora_A.weight": parts[A]})),
        f"changed: {LAYER}9.lora_A.weight: fits no tensor of BASE (1 such tensors){UNUSED}",
    ),
    "A without B": (
        changed(lambda parts: parts.pop(B)),
        f"changed: {LAYER}.lora_A.weight: fits no tensor of BASE (1 such tensors){UNUSED}",
    ),
    "NaN": (
        changed(lambda parts: parts[B].fill_(float("nan"))),
        f"changed/adapter_model.safetensors: {B}: holds infinite numbers or NaN; if the training diverged, lower "
        "train.sft.learning_rate",
    ),
    "float64": (
        changed(lambda parts: parts.update({B: parts[B].double()})),
        f"changed/adapter_model.safetensors: {B}: F64 numbers cannot be merged; use a model in F32, F16, BF16",
    ),
    "FP8": (
        fp8_base,
        f"base/model.safetensors: {LAYER}.weight: F8_E4M3 numbers cannot be merged; use a model in F32, F16, BF16",
    ),
    "trainable_token_indices": (
        configured(trainable_token_indices=[1, 2]),
        "adapter: model.embed_tokens.token_adapter.trainable_tokens_delta: fits no tensor of BASE (1 such tensors)"
        f"{UNUSED}",
    ),
    "saved head of a tied model": (
        configured(modules_to_save=["lm_head"]),
        f"adapter: lm_head.weight: fits no tensor of BASE (1 such tensors){UNUSED}",
    ),
    "adapted head of a tied model": (
        configured(target_modules=["lm_head"]),
        f"adapter: lm_head.lora_A.weight: fits no tensor of BASE (3 such tensors){UNUSED}",
    ),
    "saved embedding of a tied model": (configured(modules_to_save=["embed_tokens"]), TIED),
    "adapted embedding of a tied model": (configured(target_modules=["embed_tokens"]), TIED),
    "target_parameters": (
        configured(target_modules=[], target_parameters=["mlp.down_proj.weight"]),
        "adapter/adapter_config.json: target_parameters: ['mlp.down_proj.weight'] cannot be merged; train without it",
    ),
    "pissa": (
        configured(init_lora_weights="pissa"),
        "adapter/adapter_config.json: init_lora_weights: 'pissa' cannot be merged; train without it",
    ),
    "packed experts": (
        packed_experts,
        f"adapter: model.layers.0.mlp.experts.lora_A.weight: fits no tensor of base (ANY such tensors){UNUSED}",
    ),
    "LoHa": (loha, f"adapter: {LAYER}.hada_w1_a: fits no tensor of BASE (8 such tensors){UNUSED}"),
    "other weights": (
        another_base(lambda base: flip(base / "model.safetensors")),
        "ADAPTER: trained on another base than base: model.safetensors was HASH and is HASH; run `dvc repro train`",
    ),
    "another template": (
        another_base(lambda base: (base / "chat_template.jinja").write_text("another")),
        "ADAPTER: trained on another base than base: chat_template.jinja was HASH and is HASH; run `dvc repro train`",
    ),
    "new file": (
        another_base(lambda base: (base / "merges.txt").write_text("new")),
        "ADAPTER: trained on another base than base: merges.txt was missing and is HASH; run `dvc repro train`",
    ),
    "missing file": (
        another_base(lambda base: (base / "manifest.json").unlink()),
        "ADAPTER: trained on another base than base: manifest.json was HASH and is missing; run `dvc repro train`",
    ),
    "empty file": (another_base(cut(0)), DAMAGED),
    "cut header": (another_base(cut(100)), DAMAGED),
    "cut tensor": (another_base(cut(-10)), DAMAGED),
    "full fine-tuning lost a tensor": (
        fully_trained(lambda parts: parts.pop(f"{LAYER}.weight")),
        f"full: {LAYER}.weight: missing{OTHER_BASE}",
    ),
    "full fine-tuning added a tensor": (
        fully_trained(lambda parts: parts.update({"model.more.weight": parts[f"{LAYER}.weight"]})),
        f"full: model.more.weight: fits no tensor of BASE (1 such tensors){UNUSED}",
    ),
}


@pytest.fixture
def refuse(params: Callable[..., Path], fail: Callable[..., str], prepared: Path) -> Callable[[Path, Path], str]:
    """Merge what cannot be merged, and return the message; nothing may be left."""

    def refuse(base: Path, adapter: Path) -> str:
        folder = params().parent
        before = {path.name for path in folder.iterdir()}
        message = fail(stage.main, "--base", base, "--adapter", adapter, "--val", prepared / "val.arrow")
        assert {path.name for path in folder.iterdir()} - {"models"} == before - {"models"}
        assert list((folder / "models").glob("*")) == []
        return message

    return refuse


@pytest.mark.parametrize(("build", "message"), CASES.values(), ids=CASES)
def test_what_cannot_be_merged_is_an_error_and_leaves_nothing(
    refuse: Callable[[Path, Path], str], base: Path, adapter: Path, tmp_path: Path, build: Build, message: str
) -> None:
    pattern = re.escape(message.replace("BASE", str(base)).replace("ADAPTER", str(adapter)))
    pattern = pattern.replace("HASH", "[0-9a-f]{32}").replace("ANY", ".*")
    assert re.fullmatch(pattern, found := refuse(*build(Inputs(base, adapter, tmp_path)))), found


def test_a_full_disk_is_an_error(refuse: Callable[[Path, Path], str], base: Path, adapter: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        message = refuse(base, adapter)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert message.startswith("models/merged: cannot be written (File too large); ")


@pytest.mark.parametrize(
    ("missing", "command"),
    [
        ("models/base", "dvc repro base"),
        ("models/adapter/adapter_config.json", "dvc repro train"),
        ("models/adapter/adapter_model.safetensors", "dvc repro train"),
        ("models/adapter/base.json", "dvc repro train"),
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
    message = fail(stage.main)
    assert message.startswith(f"{missing}: ")
    assert f"`{command}`" in message
    assert not (folder / "models" / "merged").exists()
