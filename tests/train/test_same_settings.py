"""Same settings: an adapter resumes under the params that made it, however they are written, and under no others."""

import copy
import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import peft
import pytest
from adapters import adapt

from stages.common import files
from stages.common.adapter_config import CONFIG

PARAMS = Path("params.yaml")
PROJECTIONS = ["gate_proj", "up_proj", "down_proj", "q_proj", "k_proj", "v_proj", "o_proj"]
# Settings that made an adapter, settings to go on with, and the keys that the message lists.
CASES: dict[str, tuple[dict[str, Any], dict[str, Any], list[str]]] = {
    "the same": ({"target_modules": "all-linear"}, {"target_modules": "all-linear"}, []),
    "names of all": ({"target_modules": "all-linear"}, {"target_modules": PROJECTIONS}, []),
    "all for names": ({"target_modules": PROJECTIONS}, {"target_modules": "all-linear"}, []),
    "a pattern for names": ({"target_modules": ["q_proj", "k_proj"]}, {"target_modules": r".*\.[qk]_proj"}, []),
    "PEFT's default": ({"target_modules": ["q_proj", "v_proj"]}, {}, []),
    "the other order": ({"target_modules": ["q_proj", "v_proj"]}, {"target_modules": ["v_proj", "q_proj"]}, []),
    "left out for a list": (
        {"target_modules": "all-linear", "exclude_modules": r".*mlp.*"},
        {"target_modules": PROJECTIONS[3:]},
        [],
    ),
    "every layer": (
        {"target_modules": ["q_proj"]},
        {"target_modules": ["q_proj"], "layers_to_transform": [0, 1]},
        [],
    ),
    "a layer as a number": (
        {"target_modules": ["q_proj"], "layers_to_transform": [1]},
        {"target_modules": ["q_proj"], "layers_to_transform": 1, "layers_pattern": "layers"},
        [],
    ),
    "nothing saved": ({"target_modules": ["q_proj"]}, {"target_modules": ["q_proj"], "modules_to_save": []}, []),
    "saved by its full name": (
        {"target_modules": ["q_proj"], "modules_to_save": ["model.norm"]},
        {"target_modules": ["q_proj"], "modules_to_save": ["model.norm", ".norm"]},
        [],
    ),
    "initial weights": (
        {"target_modules": ["q_proj"], "init_lora_weights": "gaussian"},
        {"target_modules": ["q_proj"]},
        [],
    ),
    "tied by the other name": (
        {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
        {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"], "ensure_weight_tying": True},
        [],
    ),
    "rsLoRA left out": ({"use_rslora": True}, {}, ["use_rslora"]),
    "DoRA left out": ({"use_dora": True}, {}, ["use_dora"]),
    "DoRA put in": ({}, {"use_dora": True}, ["use_dora"]),
    "all for a few": ({"target_modules": ["q_proj"]}, {"target_modules": "all-linear"}, ["target_modules"]),
    "a few for all": ({"target_modules": "all-linear"}, {"target_modules": ["q_proj"]}, ["target_modules"]),
    "another name": ({"target_modules": ["q_proj"]}, {"target_modules": ["k_proj"]}, ["target_modules"]),
    "left out": (
        {"target_modules": "all-linear"},
        {"target_modules": "all-linear", "exclude_modules": ["q_proj"]},
        ["exclude_modules"],
    ),
    "no longer left out": (
        {"target_modules": ["q_proj"], "exclude_modules": ["layers.0.self_attn.q_proj"]},
        {"target_modules": ["q_proj"]},
        ["exclude_modules"],
    ),
    "another layer": (
        {"target_modules": ["q_proj"], "layers_to_transform": [0]},
        {"target_modules": ["q_proj"], "layers_to_transform": [1]},
        ["layers_to_transform"],
    ),
    "saved": ({}, {"modules_to_save": ["model.norm"]}, ["modules_to_save"]),
    "no longer saved": ({"modules_to_save": ["model.norm"]}, {}, ["modules_to_save"]),
    "saved instead of adapted": (
        {"target_modules": "all-linear"},
        {"target_modules": "all-linear", "modules_to_save": ["q_proj"]},
        ["modules_to_save"],
    ),
    "tied": (
        {"modules_to_save": ["model.norm"]},
        {"modules_to_save": ["model.norm"], "ensure_weight_tying": True},
        ["ensure_weight_tying"],
    ),
    "two": ({"r": 4, "bias": "all"}, {"r": 8, "lora_alpha": 8}, ["bias", "r"]),
    "patterns": (
        {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"v_proj": 4}},
        {"rank_pattern": {"q_proj": 3}},
        ["alpha_pattern", "rank_pattern"],
    ),
}


@pytest.fixture(scope="module")
def check(base: Path) -> Callable[[Path, dict[str, Any]], str]:
    """Compare an adapter with settings, and return the message."""
    from stages.train.checks import without_weights
    from stages.train.same_settings import require_same_settings

    model = without_weights(PARAMS, base)

    def check(start: Path, config: dict[str, Any]) -> str:
        lora = peft.LoraConfig(task_type="CAUSAL_LM", **copy.deepcopy(config))
        before = lora.to_dict()
        try:
            require_same_settings(PARAMS, config, lora, start, model)
        except click.ClickException as error:
            return error.message
        assert lora.to_dict() == before
        return ""

    return check


def keys(message: str) -> list[str]:
    return [line.removeprefix("params.yaml: train.lora.").partition(":")[0] for line in message.splitlines()]


@pytest.mark.parametrize(("made", "now", "expected"), CASES.values(), ids=CASES)
def test_the_keys_that_change_the_training_are_listed(
    check: Callable[..., str],
    base: Path,
    tmp_path: Path,
    made: dict[str, Any],
    now: dict[str, Any],
    expected: list[str],
) -> None:
    start = adapt(base, tmp_path / "start", **copy.deepcopy(made))
    message = check(start, now)
    assert keys(message) == expected, message
    for line, key in zip(message.splitlines(), expected, strict=True):
        assert ("by default" in line) == (key not in now)


def test_every_field_of_peft_is_compared_or_has_a_reason_not_to(
    check: Callable[..., str], base: Path, tmp_path: Path
) -> None:
    from stages.train.same_settings import LAYERS, NOT_COMPARED

    start = adapt(base, tmp_path / "start", target_modules=["q_proj"])
    config = files.read_json(start / CONFIG)
    fields = {field.name for field in dataclasses.fields(peft.LoraConfig)}
    assert NOT_COMPARED.keys() <= fields
    assert fields - config.keys() == {"runtime_config"}
    for key in sorted(fields - NOT_COMPARED.keys() - {*LAYERS, "modules_to_save"}):
        files.write_json(start / CONFIG, config | {key: {"a": 1} if isinstance(config[key], dict) else 77})
        message = check(start, {"target_modules": ["q_proj"]})
        assert key in keys(message) or (f"{key}: " in message and "cannot be merged" in message), (key, message)


def test_keys_that_an_older_peft_did_not_have_are_its_defaults(
    check: Callable[..., str], base: Path, tmp_path: Path
) -> None:
    start = adapt(base, tmp_path / "start", target_modules=["q_proj"], lora_alpha=9)
    config = files.read_json(start / CONFIG)
    few = ("peft_type", "r", "lora_alpha", "target_modules", "lora_dropout", "bias")
    files.write_json(start / CONFIG, {key: config[key] for key in few})
    assert not check(start, {"target_modules": ["q_proj"], "lora_alpha": 9})
    assert keys(check(start, {"target_modules": ["q_proj"], "lora_alpha": 9, "use_dora": True})) == ["use_dora"]


def test_the_adapter_of_this_pipeline_goes_on_with_its_own_params(
    check: Callable[..., str], adapter: Path, tmp_path: Path
) -> None:
    start = shutil.copytree(adapter, tmp_path / "start")
    assert not check(start, {"target_modules": "all-linear", "r": 4, "lora_alpha": 8, "lora_dropout": 0.0})
