"""LoRA names: what PEFT takes is let through, and the list of layers is PEFT's own."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

LAYER = "model.layers.0.self_attn"
# What works, neighbours of what does not: test_messages has those.
WORKING: dict[str, dict[str, Any]] = {
    "all-linear": {"target_modules": "all-linear"},
    "all-linear in capitals": {"target_modules": "All-Linear"},
    "PEFT's default": {},
    "names": {"target_modules": ["q_proj", "v_proj"]},
    "a full name": {"target_modules": [f"{LAYER}.q_proj"]},
    "the last parts of a name": {"target_modules": ["self_attn.q_proj", "0.mlp.up_proj"]},
    "a pattern": {"target_modules": r".*\.(q|v)_proj"},
    "left out": {"target_modules": ["q_proj"], "exclude_modules": ["model.layers.1.self_attn.q_proj"]},
    "left out twice": {"target_modules": "all-linear", "exclude_modules": ["lm_head"]},
    "left out by a pattern": {"target_modules": "all-linear", "exclude_modules": r".*layers\.1\..*"},
    "saved by the end of a name": {"target_modules": ["q_proj"], "modules_to_save": ["layernorm"]},
    "saved block": {"target_modules": ["q_proj"], "modules_to_save": ["layers.1.mlp"]},
    "nothing saved": {"target_modules": ["q_proj"], "modules_to_save": []},
    "ranks": {"target_modules": "all-linear", "rank_pattern": {f"{LAYER}.q_proj": 2, "mlp.up_proj": 3}},
    "ranks by a pattern": {"target_modules": "all-linear", "rank_pattern": {r"layers\.[01]\.mlp\..*": 2}},
    "a rank that starts at the start": {"target_modules": "all-linear", "rank_pattern": {r"^model\..*q_proj": 2}},
    "alphas": {"target_modules": ["q_proj", "k_proj"], "alpha_pattern": {"q_proj": 2.5, "k_proj": 4}},
    "alphas in the order of the alphabet": {
        "target_modules": ["q_proj"],
        "alpha_pattern": {"layers.0.self_attn.q_proj": 2, "q_proj": 4},
    },
    "a layer": {"target_modules": ["q_proj"], "layers_to_transform": 1},
    "layers": {"target_modules": ["q_proj", "up_proj"], "layers_to_transform": [1, 0]},
    "no layers": {"target_modules": ["q_proj"], "layers_to_transform": []},
    "layers of a list": {"target_modules": ["q_proj"], "layers_to_transform": [1], "layers_pattern": ["layers"]},
}
# What would train fewer layers than it says, and a word of the message.
SILENT: dict[str, tuple[dict[str, Any], str]] = {
    "an end without its dot": ({"target_modules": ["q_proj", "_proj"]}, "target_modules: _proj"),
    "the start of a name": ({"target_modules": ["model.layers.0.self_attn", "q"]}, "target_modules: q "),
    "a full name with another number": ({"target_modules": ["q_proj", "model.layers.2.mlp.up_proj"]}, "layers.2"),
    "the case": ({"target_modules": ["q_proj", "V_proj"]}, "did you mean v_proj"),
    "an empty name": ({"target_modules": ["q_proj", ""]}, "target_modules: "),
    "a pattern for the end": ({"target_modules": "(q|v)_proj"}, "matches no layer"),
    "a pattern to leave out": ({"target_modules": "all-linear", "exclude_modules": "up_proj"}, r"write \[up_proj\]"),
    "saved and adapted": ({"target_modules": ["q_proj", "k_proj"], "modules_to_save": ["k_proj"]}, "modules_to_save"),
    "outside the layers": (
        {"target_modules": ["q_proj", "embed_tokens"], "layers_to_transform": [0]},
        "embed_tokens",
    ),
    "a layer below 0": ({"target_modules": ["q_proj"], "layers_to_transform": [-1]}, "-1 is no layer"),
    "a rank for the end of a word": ({"target_modules": "all-linear", "rank_pattern": {"_proj": 2}}, "rank_pattern"),
    "a rank pattern that is none": (
        {"target_modules": "all-linear", "rank_pattern": {"(q": 2}},
        "regular expression",
    ),
    "an alpha for what is left out": (
        {"target_modules": "all-linear", "exclude_modules": ["q_proj"], "alpha_pattern": {"q_proj": 2}},
        "alpha_pattern: q_proj",
    ),
    "an alpha that PEFT loads as another": (  # it saves the keys sorted
        {"target_modules": "all-linear", "alpha_pattern": {"self_attn.[qk]_proj": 4, "[qo]_proj": 8}},
        r"self_attn\.\[qk\]_proj and \[qo\]_proj both match model\.layers\.0\.self_attn\.q_proj, and PEFT takes the "
        "first in this file but the first in alphabetical order once the adapter is saved; write keys that exclude",
    ),
    "rank 0": ({"target_modules": "all-linear", "rank_pattern": {"q_proj": 0}}, "positive"),
    "half a rank": ({"target_modules": "all-linear", "rank_pattern": {"q_proj": 2.5}}, "positive"),
    "a rank that is true": ({"target_modules": "all-linear", "rank_pattern": {"q_proj": True}}, "positive"),
}


@pytest.fixture(scope="module")
def check(base: Path) -> Callable[..., list[str]]:
    """Check a config on the layers of the base model, and return the names of those that get an adapter."""
    import peft

    from stages.train.checks import without_weights
    from stages.train.lora_names import require_names, target_names

    params = Path("params.yaml")
    model = without_weights(params, base)

    def check(config: dict[str, Any]) -> list[str]:
        lora = peft.LoraConfig(task_type="CAUSAL_LM", **config)
        before = lora.to_dict()
        require_names(params, base, lora, model)
        assert lora.to_dict() == before
        return target_names(lora, model)

    return check


@pytest.mark.parametrize("config", WORKING.values(), ids=WORKING)
def test_the_layers_are_those_that_peft_adapts(
    check: Callable[..., list[str]], base: Path, config: dict[str, Any]
) -> None:
    import peft
    from adapters import load
    from peft.tuners.lora import LoraLayer

    names = check(config)
    model = peft.get_peft_model(load(base), peft.LoraConfig(task_type="CAUSAL_LM", **config)).get_base_model()
    assert names == [name for name, module in model.named_modules() if isinstance(module, LoraLayer)]
    assert names


@pytest.mark.parametrize(("config", "word"), SILENT.values(), ids=SILENT)
def test_a_name_without_effect_is_an_error(
    check: Callable[..., list[str]], config: dict[str, Any], word: str
) -> None:
    import click

    with pytest.raises(click.ClickException, match=word) as raised:
        check(config)
    assert raised.value.message.startswith("params.yaml: train.lora.")


def test_a_model_without_a_default_needs_names(base: Path, check: Callable[..., list[str]]) -> None:
    import click
    import peft

    from stages.train.checks import without_weights
    from stages.train.lora_names import require_names

    model = without_weights(Path("params.yaml"), base)
    model.config.model_type = "new"
    with pytest.raises(click.ClickException, match="PEFT has no default for a new model; set all-linear"):
        require_names(Path("params.yaml"), base, peft.LoraConfig(), model)


def test_nothing_of_the_weights_is_read(base: Path) -> None:
    from stages.train.checks import without_weights

    assert {weight.device.type for weight in without_weights(Path("params.yaml"), base).parameters()} == {"meta"}
