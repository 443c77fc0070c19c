"""Mergeable: train refuses before the first step what merge would refuse after the last, and nothing else."""

import copy
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import peft
import pytest
from adapters import load, tensors

from stages.common import adapter_config, files, trained_on
from stages.merge.plan import plan_merge
from stages.merge.rewrite import rewrite_weights
from stages.merge.tensors import DTYPES

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PARAMS = Path("params.yaml")
SIZES: dict[str, Any] = {"vocab_size": 80, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
LAYER = "model.layers.0.self_attn"
TYING: dict[str, Any] = {"target_modules": ["q_proj"], "ensure_weight_tying": True}
# For each kind of base model: configs, and whether they can be merged.
CASES: list[tuple[str, dict[str, Any], bool]] = [
    ("tied", {"target_modules": "all-linear"}, True),
    ("tied", {"target_modules": "all-linear", "ensure_weight_tying": True}, True),
    ("tied", TYING | {"modules_to_save": ["embed_tokens"]}, True),
    ("tied", TYING | {"modules_to_save": ["lm_head"]}, True),
    ("tied", TYING | {"modules_to_save": ["embed_tokens", "lm_head"]}, True),
    ("tied", TYING | {"modules_to_save": ["model.embed_tokens", "norm"], "use_dora": True}, True),
    ("tied", {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]}, False),
    ("tied", {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}, False),
    ("tied", {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]}, False),
    ("tied", TYING | {"modules_to_save": ["tokens"]}, False),
    ("tied", TYING | {"modules_to_save": ["embed_tokens", "_head"]}, False),
    ("tied", {"target_modules": ["lm_head"], "modules_to_save": ["model"]}, False),
    ("tied", {"target_modules": ["embed_tokens"]}, False),
    ("tied", {"target_modules": ["q_proj", "lm_head"]}, False),
    ("tied", {"target_modules": ["embed_tokens", "lm_head"]}, False),
    ("tied", {"target_modules": "lm_head|.*q_proj"}, False),
    ("tied", {"target_modules": ["embed_tokens"], "ensure_weight_tying": True}, False),
    ("tied", {"target_modules": ["lm_head"], "ensure_weight_tying": True}, False),
    ("tied", {"target_modules": ["q_proj"], "lora_bias": True}, True),
    ("tied", {"target_modules": ["q_proj"], "bias": "all"}, True),
    ("tied", {"target_modules": ["q_proj", "up_proj"], "lora_bias": True}, False),
    ("stored twice", TYING | {"modules_to_save": ["embed_tokens"]}, True),
    ("stored twice", {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]}, False),
    ("untied", {"target_modules": ["q_proj", "embed_tokens", "lm_head"]}, True),
    ("untied", {"target_modules": ["q_proj", "embed_tokens", "lm_head"], "use_dora": True}, True),
    ("untied", {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]}, True),
    ("untied", TYING | {"modules_to_save": ["lm_head"]}, True),
    ("untied", {"target_modules": ["lm_head"], "modules_to_save": ["model"]}, True),
    ("GPT-2", {"target_modules": ["c_attn"], "fan_in_fan_out": True}, True),
    ("GPT-2", {"target_modules": ["c_attn"], "ensure_weight_tying": True, "modules_to_save": ["lm_head"]}, False),
    ("GPT-2", {"target_modules": ["c_attn"], "ensure_weight_tying": True, "modules_to_save": ["wte"]}, False),
    ("GPT-2", {"target_modules": ["c_attn", "wte"]}, False),
    ("Mixtral", {"target_modules": ["q_proj"]}, True),
    ("Mixtral", {"target_modules": ["q_proj"], "modules_to_save": ["experts"]}, False),
    ("Mixtral", {"target_modules": "all-linear"}, False),  # PEFT adapts the packed experts, too
    ("Qwen3 MoE", {"target_modules": ["q_proj"]}, True),
    ("Qwen3 MoE", {"target_modules": "all-linear"}, False),
]


def build(kind: str) -> "PreTrainedModel":
    import torch
    import transformers

    torch.manual_seed(5)
    if kind == "GPT-2":
        return transformers.GPT2LMHeadModel(
            transformers.GPT2Config(vocab_size=80, n_positions=64, n_embd=32, n_layer=2, n_head=2)
        )
    small = SIZES | {"num_key_value_heads": 1, "intermediate_size": 48}
    if kind == "Mixtral":
        return transformers.MixtralForCausalLM(transformers.MixtralConfig(**small, num_local_experts=2))
    if kind == "Qwen3 MoE":
        experts = {"num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 16, "head_dim": 16}
        return transformers.Qwen3MoeForCausalLM(transformers.Qwen3MoeConfig(**small, **experts))
    return transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**small, tie_word_embeddings=kind != "untied"))


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Make a small base model of a kind, once."""
    folder = tmp_path_factory.mktemp("bases")

    def make(kind: str) -> Path:
        out = folder / kind
        if not out.exists():
            from safetensors.torch import save_file

            build(kind).save_pretrained(out)
            if kind == "stored twice":
                parts = tensors(out)
                parts["lm_head.weight"] = parts["model.embed_tokens.weight"].clone()
                save_file(parts, out / "model.safetensors", metadata={"format": "pt"})
        return out

    return make


def configured(config: dict[str, Any]) -> peft.LoraConfig:
    return peft.LoraConfig(task_type="CAUSAL_LM", r=2, **copy.deepcopy(config))  # PEFT changes its lists


def refusal(base: Path, lora: peft.LoraConfig) -> str:
    """Return what train says before it builds a trainer, or before its first step."""
    from stages.train.checks import check_model, without_weights
    from stages.train.lora_names import require_names
    from stages.train.mergeable import require_tied

    layers = without_weights(PARAMS, base)
    try:
        require_names(PARAMS, base, lora, layers)
        require_tied(PARAMS, base, lora, layers)
        check_model(PARAMS, base, peft.get_peft_model(load(base), lora))
    except click.ClickException as error:
        return error.message
    return ""


def train(base: Path, lora: peft.LoraConfig, out: Path) -> Any:
    """Train an adapter for a few steps without the checks, save it, and return the model."""
    import torch

    torch.manual_seed(3)
    model = peft.get_peft_model(load(base), lora).train()
    rows = torch.arange(1, 25).view(2, 12)
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=0.01)
    for _ in range(3):
        optimizer.zero_grad()
        model(input_ids=rows, labels=rows).loss.backward()
        optimizer.step()
    model.eval().save_pretrained(out)
    trained_on.note(base, out)
    return model


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "config", "possible"), CASES, ids=[f"{kind}, {config}" for kind, config, _ in CASES]
)
def test_what_is_trained_is_merged_and_what_cannot_be_merged_is_not_trained(
    bases: Callable[[str], Path], tmp_path: Path, kind: str, config: dict[str, Any], possible: bool
) -> None:
    import torch

    base = bases(kind)
    found = refusal(base, configured(config))
    assert (not found) == possible, found
    if not possible:
        assert found.startswith("params.yaml: train.lora")
        return
    trained = train(base, configured(config), tmp_path / "adapter")
    merged = shutil.copytree(base, tmp_path / "merged")
    plan = plan_merge(base, tmp_path / "adapter", files.read_json(tmp_path / "adapter" / adapter_config.CONFIG))
    assert rewrite_weights(base, tmp_path / "adapter", merged, plan) > 0
    ids = torch.arange(2, 20)[None]
    loaded = peft.PeftModel.from_pretrained(load(base), tmp_path / "adapter").eval()
    with torch.no_grad():
        expected, actual, before, again = (
            model(input_ids=ids).logits for model in (trained, load(merged), load(base), loaded)
        )
    assert torch.equal(again, expected)
    assert torch.allclose(actual, expected, atol=2e-5, rtol=1e-4), (actual - expected).abs().max()
    assert (actual - before).abs().max() > 1e-3
    result = load(merged)
    head, embedding = result.get_output_embeddings(), result.get_input_embeddings()
    assert (head.weight is embedding.weight) == (kind not in ("untied", "Mixtral", "Qwen3 MoE"))


@pytest.mark.slow
@pytest.mark.parametrize("config", [config for kind, config, possible in CASES if kind == "tied" and not possible])
def test_without_the_checks_such_an_adapter_is_trained_and_then_refused_or_wrong(
    bases: Callable[[str], Path], tmp_path: Path, config: dict[str, Any]
) -> None:
    """The reason for each refusal: merge says no, or PEFT itself does."""
    base = bases("tied")
    try:
        train(base, configured(config), tmp_path / "adapter")
        plan_merge(base, tmp_path / "adapter", files.read_json(tmp_path / "adapter" / adapter_config.CONFIG))
    except (click.ClickException, ValueError, TypeError):
        return
    pytest.fail("this one can be merged")


def test_peft_ties_a_whole_matrix_and_not_an_adapter(bases: Callable[[str], Path]) -> None:
    import torch

    def memory(**config: Any) -> set[int]:
        lora = peft.LoraConfig(task_type="CAUSAL_LM", r=2, ensure_weight_tying=True, **config)
        model = peft.get_peft_model(load(bases("tied"), torch.bfloat16), lora)
        names = ("lora_embedding_B", "lm_head.lora_A", "embed_tokens.modules", "lm_head.modules")
        named = model.named_parameters(remove_duplicate=False)
        return {weight.data_ptr() for name, weight in named if any(part in name for part in names)}

    assert len(memory(target_modules=["q_proj"], modules_to_save=["embed_tokens"])) == 1
    assert len(memory(target_modules=["q_proj", "embed_tokens"])) == 2


@pytest.mark.parametrize("kind", ["tied", "untied", "GPT-2", "Mixtral", "stored twice"])
def test_full_fine_tuning_saves_the_tensors_of_the_base(
    bases: Callable[[str], Path], tmp_path: Path, kind: str
) -> None:
    from stages.train.checks import check_model

    base, out = bases(kind), tmp_path / "full"
    model = load(base)
    model.save_pretrained(out)
    if kind != "stored twice":
        check_model(PARAMS, base, model)
        plan_merge(base, out, None)
        return
    with pytest.raises(
        click.ClickException, match=r"train.method: full: .* stores lm_head.weight, which the trained"
    ):
        check_model(PARAMS, base, model)
    with pytest.raises(click.ClickException, match=r"lm_head.weight: missing"):
        plan_merge(base, out, None)


def test_numbers_that_merge_does_not_compute_with_are_refused(bases: Callable[[str], Path], tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    from stages.train.mergeable import DTYPES as KNOWN

    assert set(KNOWN) == set(DTYPES)
    base = shutil.copytree(bases("tied"), tmp_path / "base")
    parts = tensors(base)
    parts[f"{LAYER}.q_proj.weight"] = parts[f"{LAYER}.q_proj.weight"].double()
    save_file(parts, base / "model.safetensors", metadata={"format": "pt"})
    assert load(base).dtype == torch.float32
    config: dict[str, Any] = {"task_type": "CAUSAL_LM", "r": 2}
    found = refusal(base, peft.LoraConfig(**config, target_modules=["q_proj"]))
    assert found == (
        f"params.yaml: train.lora: {LAYER}.q_proj.weight: F64 numbers cannot be merged; use a base model in F32, "
        "F16, BF16"
    )
    assert not refusal(base, peft.LoraConfig(**config, target_modules=["v_proj"]))


def test_a_base_with_other_shapes_is_refused(bases: Callable[[str], Path], tmp_path: Path) -> None:
    from safetensors.torch import save_file

    base = shutil.copytree(bases("tied"), tmp_path / "base")
    lora = peft.LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj"])
    from stages.train.checks import check_model

    model = peft.get_peft_model(load(base), lora)
    parts = tensors(base)
    parts[f"{LAYER}.q_proj.weight"] = parts[f"{LAYER}.q_proj.weight"].reshape(16, 64)
    save_file(parts, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(click.ClickException, match=r"q_proj.lora_A.weight: shape \(32, 32\), but .* has \(16, 64\)"):
        check_model(PARAMS, base, model)
