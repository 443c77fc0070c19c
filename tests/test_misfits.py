"""Misfits: what cannot be merged is an error that names the tensor, the file or the key, and leaves nothing."""

import re
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from adapters import ALL, adapt, load, tensors

from stages import merge as stage
from stages.common import origin

if TYPE_CHECKING:
    from torch import Tensor

LAYER = "model.layers.0.self_attn.q_proj"
KEY = f"base_model.model.{LAYER}"


@pytest.fixture
def refuse(params: Callable[..., Path], fail: Callable[..., str], prepared: Path) -> Callable[[Path, Path], str]:
    """Merge what cannot be merged, and give the message; nothing may be left."""

    def refuse(base: Path, adapter: Path) -> str:
        folder = params().parent
        before = sorted(path.name for path in folder.iterdir())
        message = fail(stage.main, "--base", base, "--adapter", adapter, "--val", prepared / "val.arrow")
        assert sorted({path.name for path in folder.iterdir()} - {"models"}) == sorted({*before} - {"models"})
        assert list((folder / "models").iterdir()) == []
        return message

    return refuse


def spoil(adapter: Path, out: Path, change: "Callable[[dict[str, Tensor]], Any]") -> Path:
    from safetensors.torch import save_file

    shutil.copytree(adapter, out)
    parts = tensors(out)
    change(parts)
    save_file({name: part.clone() for name, part in parts.items()}, out / "adapter_model.safetensors")
    return out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda parts: parts.update({f"{KEY}.lora_A.weight": parts[f"{KEY}.lora_A.weight"][:, :64]}),
            f"{LAYER}.weight: shape (128, 128), adapter (128, 64); was it trained on another base?",
        ),
        (
            lambda parts: parts.update({f"{KEY}.weight": parts[f"{KEY}.lora_A.weight"].repeat(32, 1)[:, :64]}),
            f"{LAYER}.weight: shape (128, 128), adapter (128, 64); was it trained on another base?",
        ),
        (
            lambda parts: parts.update({f"{KEY}.lora_A.weight": parts[f"{KEY}.lora_A.weight"][:3]}),
            f"{LAYER}.weight: shape (128, 128), adapter (128, 4) by (3, 128); was it trained on another base?",
        ),
        (
            lambda parts: parts.update({f"{KEY}.lora_A.weight": parts[f"{KEY}.lora_A.weight"][:0]}),
            f"{LAYER}.weight: shape (128, 128), adapter (128, 4) by (0, 128); was it trained on another base?",
        ),
        (
            lambda parts: parts.update({f"{KEY}.lora_magnitude_vector": parts[f"{KEY}.lora_A.weight"][0, :9]}),
            f"{LAYER}.weight: shape (128, 128), adapter (9,); was it trained on another base?",
        ),
        (
            lambda parts: parts.update({f"{KEY}9.lora_A.weight": parts[f"{KEY}.lora_A.weight"]}),
            f"spoiled: {LAYER}9.lora_A.weight: fits no tensor of BASE (1 such tensors)",
        ),
        (
            lambda parts: parts.pop(f"{KEY}.lora_B.weight"),
            f"spoiled: {LAYER}.lora_A.weight: fits no tensor of BASE (1 such tensors)",
        ),
        (
            lambda parts: parts[f"{KEY}.lora_B.weight"].fill_(float("nan")),
            f"spoiled/adapter_model.safetensors: {KEY}.lora_B.weight: holds numbers that are not finite",
        ),
        (
            lambda parts: parts.update({f"{KEY}.lora_B.weight": parts[f"{KEY}.lora_B.weight"].double()}),
            f"spoiled/adapter_model.safetensors: {KEY}.lora_B.weight: F64 numbers cannot be merged",
        ),
    ],
    ids=["width", "whole", "rank", "nothing", "magnitude", "layer", "half", "nan", "dtype"],
)
def test_an_adapter_that_does_not_fit_is_an_error(
    refuse: Callable[..., str],
    base: Path,
    adapter: Path,
    tmp_path: Path,
    change: "Callable[[dict[str, Tensor]], Any]",
    message: str,
) -> None:
    spoil(adapter, tmp_path / "spoiled", change)
    assert refuse(base, Path("spoiled")) == message.replace("BASE", str(base))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"trainable_token_indices": [1, 2]},
            "model.embed_tokens.token_adapter.trainable_tokens_delta: fits no tensor of BASE (1 such tensors)",
        ),
        ({"modules_to_save": ["lm_head"]}, "lm_head.weight: fits no tensor of BASE (1 such tensors)"),
        ({"target_modules": ["lm_head"]}, "lm_head.lora_A.weight: fits no tensor of BASE (3 such tensors)"),
        (
            {"modules_to_save": ["embed_tokens"]},
            "model.embed_tokens.weight: BASE uses it for input and output (tie_word_embeddings), and the adapter "
            "changes one of them; train without it",
        ),
        (
            {"target_modules": ["embed_tokens"]},
            "model.embed_tokens.weight: BASE uses it for input and output (tie_word_embeddings), and the adapter "
            "changes one of them; train without it",
        ),
        (
            {"target_modules": [], "target_parameters": ["mlp.down_proj.weight"]},
            "target_parameters: ['mlp.down_proj.weight'] cannot be merged; train without it",
        ),
        ({"init_lora_weights": "pissa"}, "init_lora_weights: 'pissa' cannot be merged; train without it"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_kind_of_adapter_that_is_not_merged_is_an_error(
    refuse: Callable[..., str], base: Path, tmp_path: Path, config: dict[str, Any], message: str
) -> None:
    adapt(base, tmp_path / "adapter", **{"target_modules": ["q_proj"], "r": 4} | config)
    found = refuse(base, Path("adapter"))
    assert found.removeprefix("adapter").removeprefix("/adapter_config.json") == ": " + message.replace(
        "BASE", str(base)
    )


def test_packed_experts_are_an_error(refuse: Callable[..., str], tmp_path: Path) -> None:
    import transformers

    sizes: dict[str, Any] = {"vocab_size": 80, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1}
    heads: dict[str, Any] = {"num_attention_heads": 2, "num_key_value_heads": 1, "num_local_experts": 2}
    transformers.MixtralForCausalLM(transformers.MixtralConfig(**sizes, **heads)).save_pretrained(tmp_path / "base")
    adapt(tmp_path / "base", tmp_path / "adapter", target_parameters=["mlp.experts.gate_up_proj"], r=2)
    assert refuse(Path("base"), Path("adapter")).startswith(
        "adapter: model.layers.0.mlp.experts.lora_A.weight: fits no tensor of base ("
    )


def test_another_method_than_lora_is_an_error(refuse: Callable[..., str], base: Path, tmp_path: Path) -> None:
    import peft

    model = peft.get_peft_model(load(base), peft.LoHaConfig(task_type="CAUSAL_LM", target_modules=["q_proj"]))
    model.save_pretrained(tmp_path / "adapter")
    origin.note(base, tmp_path / "adapter")
    assert refuse(base, Path("adapter")) == (f"adapter: {LAYER}.hada_w1_a: fits no tensor of {base} (8 such tensors)")


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda base: flip(base / "model.safetensors"), "model.safetensors was HASH and is HASH"),
        (
            lambda base: (base / "chat_template.jinja").write_text("another"),
            "chat_template.jinja was HASH and is HASH",
        ),
        (lambda base: (base / "merges.txt").write_text("new"), "merges.txt was missing and is HASH"),
        (lambda base: (base / "manifest.json").unlink(), "manifest.json was HASH and is missing"),
    ],
    ids=["weights", "config", "new file", "missing file"],
)
def test_an_adapter_of_another_base_is_an_error(
    refuse: Callable[..., str],
    base: Path,
    adapter: Path,
    tmp_path: Path,
    change: Callable[[Path], Any],
    name: str,
) -> None:
    change(shutil.copytree(base, tmp_path / "base"))
    pattern = re.escape(f"{adapter}: trained on another base than base: {name}; run `dvc repro train`")
    assert re.fullmatch(pattern.replace("HASH", "[0-9a-f]{32}"), refuse(Path("base"), adapter))


@pytest.mark.parametrize("cut", [0, 100, -10])
def test_a_damaged_file_is_an_error(
    refuse: Callable[..., str], base: Path, adapter: Path, tmp_path: Path, cut: int
) -> None:
    path = shutil.copytree(base, tmp_path / "base") / "model.safetensors"
    path.write_bytes(path.read_bytes()[:cut])
    message = refuse(Path("base"), adapter)
    assert message.startswith("base/model.safetensors: damaged (Error while deserializing header: ")
    assert message.endswith("); run `dvc repro` to make it again")


def test_weights_that_are_no_plain_numbers_are_an_error(
    refuse: Callable[..., str], base: Path, tmp_path: Path
) -> None:
    import torch
    from safetensors.torch import save_file

    shutil.copytree(base, tmp_path / "base")
    adapt(base, tmp_path / "adapter", **ALL)
    parts = tensors(base)
    parts[f"{LAYER}.weight"] = parts[f"{LAYER}.weight"].to(torch.float8_e4m3fn)
    save_file(parts, tmp_path / "base" / "model.safetensors")
    origin.note(tmp_path / "base", tmp_path / "adapter")
    assert refuse(Path("base"), Path("adapter")) == (
        f"base/model.safetensors: {LAYER}.weight: F8_E4M3 numbers cannot be merged"
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda parts: parts.pop(f"{LAYER}.weight"), f"{LAYER}.weight: missing; was it trained on another base?"),
        (
            lambda parts: parts.update({"model.more.weight": parts[f"{LAYER}.weight"]}),
            "model.more.weight: fits no tensor of BASE (1 such tensors)",
        ),
    ],
    ids=["missing", "more"],
)
def test_a_whole_model_that_does_not_fit_is_an_error(
    refuse: Callable[..., str],
    base: Path,
    tmp_path: Path,
    change: "Callable[[dict[str, Tensor]], Any]",
    message: str,
) -> None:
    from safetensors.torch import save_file

    parts = tensors(base)
    change(parts)
    (tmp_path / "whole").mkdir()
    save_file({name: part.clone() for name, part in parts.items()}, tmp_path / "whole" / "model.safetensors")
    shutil.copy(base / "config.json", tmp_path / "whole")
    origin.note(base, tmp_path / "whole")
    assert refuse(base, Path("whole")) == f"whole: {message}".replace("BASE", str(base))


def test_a_full_disk_is_an_error(refuse: Callable[..., str], base: Path, adapter: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        message = refuse(base, adapter)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert message == "models/merged: cannot be written (File too large); check the folder's owner and free space"
