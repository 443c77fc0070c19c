"""Delta: the merged tensors are those of PEFT's `merge_and_unload`, bit for bit.

Equal bits need the settings of docker/run, with which `make test` runs.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from adapters import ALL, adapt, load, merge

from stages.merge.delta import STEP, product

if TYPE_CHECKING:
    from torch import Tensor, dtype

SIZES: dict[str, Any] = {"vocab_size": 80, "num_hidden_layers": 2, "num_attention_heads": 2}
QWEN = SIZES | {"hidden_size": 64, "intermediate_size": 208, "num_key_value_heads": 1, "head_dim": 32}
TABLES = {"target_modules": ["embed_tokens", "lm_head", "q_proj"], "r": 4}
C_ATTN: dict[str, Any] = {"target_modules": ["c_attn", "c_fc"], "r": 4, "fan_in_fan_out": True}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "lora": ("tied", ALL),
    "rslora": ("tied", ALL | {"use_rslora": True}),
    "some layers": ("tied", {"target_modules": ["q_proj", "down_proj"], "r": 3, "lora_alpha": 5}),
    "a rank above STEP": ("tied", ALL | {"r": 128}),
    "modules to save": ("tied", ALL | {"modules_to_save": ["input_layernorm", "norm"]}),
    "tables to save": ("untied", ALL | {"modules_to_save": ["embed_tokens", "lm_head"]}),
    "trained biases": ("tied", ALL | {"bias": "all"}),
    "biases of B": ("tied", ALL | {"target_modules": ["q_proj", "v_proj"], "lora_bias": True}),
    "patterns": ("tied", ALL | {
        "rank_pattern": {"q_proj": 2, "layers.1.mlp.up_proj": 8},
        "alpha_pattern": {"q_proj": 1, "layers.0.mlp.down_proj": 32},
    }),
    "patterns and rslora": ("tied", ALL | {
        "use_rslora": True, "rank_pattern": {"k_proj": 2}, "alpha_pattern": {"k_proj": 3}
    }),
    "embeddings": ("untied", TABLES),
    "dora": ("tied", ALL | {"use_dora": True}),
    "dora and rslora": ("tied", ALL | {"use_dora": True, "use_rslora": True, "rank_pattern": {"q_proj": 2}}),
    "dora of embeddings": ("untied", TABLES | {"use_dora": True}),
    "transposed layers": ("gpt2", C_ATTN),
    "dora of transposed layers": ("gpt2", C_ATTN | {"use_dora": True}),
}  # fmt: skip


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Models of random float32 weights, each in several files."""
    import torch
    import transformers

    torch.manual_seed(3)
    built = {
        "tied": transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**QWEN, tie_word_embeddings=True)),
        "untied": transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**QWEN, tie_word_embeddings=False)),
        "gpt2": transformers.GPT2LMHeadModel(transformers.GPT2Config(n_embd=40, n_positions=64, **SIZES)),
    }
    folder = tmp_path_factory.mktemp("models")
    for name, model in built.items():
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(0.02 * torch.randn_like(weight))
        model.save_pretrained(folder / name, max_shard_size="100KB")
        assert len(list((folder / name).glob("*.safetensors"))) > 1
    return {name: folder / name for name in built}


def merged_by_peft(base: Path, adapter: Path, kind: "dtype | None" = None) -> "dict[str, Tensor]":
    from peft import PeftModel

    return PeftModel.from_pretrained(load(base, kind), adapter).merge_and_unload().state_dict()


@pytest.mark.parametrize(("name", "config"), VARIANTS.values(), ids=VARIANTS)
def test_a_float32_model_is_merged_as_by_peft_bit_for_bit(
    models: dict[str, Path], tmp_path: Path, name: str, config: dict[str, Any]
) -> None:
    base = models[name]
    adapter = adapt(base, tmp_path / "adapter", **config)
    expected = merged_by_peft(base, adapter)
    for key, tensor in merge(base, adapter, tmp_path / "merged").items():
        assert tensor.equal(expected[key]), key


@pytest.mark.parametrize("kind", ["bfloat16", "float16"])
@pytest.mark.parametrize("config", [ALL, ALL | {"use_dora": True}], ids=["lora", "dora"])
def test_a_model_in_16_bits_is_rounded_once_and_differs_from_peft_by_one_unit_at_most(
    models: dict[str, Path], tmp_path: Path, kind: str, config: dict[str, Any]
) -> None:
    import torch

    half = getattr(torch, kind)
    base, exact = tmp_path / "base", tmp_path / "exact"
    load(models["tied"], half).save_pretrained(base, max_shard_size="60KB")
    load(base).save_pretrained(exact)
    adapter = adapt(base, tmp_path / "adapter", **config)
    by_peft, once = merged_by_peft(base, adapter, half), merged_by_peft(exact, adapter)
    for key, tensor in merge(base, adapter, tmp_path / "merged").items():
        assert tensor.dtype == half
        assert tensor.equal(once[key].to(half)), key
        difference = tensor.view(torch.int16).int() - by_peft[key].view(torch.int16).int()
        assert difference.abs().max() <= 1, key


@pytest.mark.parametrize("rank", [1, 2, 5, 16, 64, 112, 113, 128, 192, 224])
@pytest.mark.parametrize("shape", [(64, 96), (896, 128), (1, 64), (37, 9)])
def test_a_product_is_torchs_bit_for_bit_as_one_block_and_row_by_row(rank: int, shape: tuple[int, int]) -> None:
    import torch

    rank = rank if shape[0] % 16 == shape[1] % 16 == 0 else min(rank, STEP)
    rng = np.random.default_rng(7)
    b, a = (rng.standard_normal(size, np.float32) for size in ((shape[0], rank), (rank, shape[1])))
    expected = (torch.from_numpy(b) @ torch.from_numpy(a)).numpy()
    np.testing.assert_array_equal(product(b, a), expected)
    np.testing.assert_array_equal(np.concatenate([product(row[None], a) for row in b]), expected)
