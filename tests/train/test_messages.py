"""Messages of the train stage for settings and inputs that cannot work: the one place that checks their wording.

Those that come with a loss that explodes, a killed run or a full disk are in test_loop and test_resume.
"""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

from stages.common import device, files
from stages.train import __main__ as stage

LAYER_1 = "model.layers.1.self_attn"
LAYERS = "layers are: down_proj, embed_tokens, gate_proj, k_proj, lm_head, o_proj, q_proj, up_proj, v_proj"
LAYERS_AND_NORMS = (
    "layers are: down_proj, embed_tokens, gate_proj, input_layernorm, k_proj, lm_head, norm, o_proj, "
    "post_attention_layernorm, q_proj, up_proj, v_proj"
)
SHARED = r"BASE uses one matrix as model\.embed_tokens and lm_head \(tie_word_embeddings\)"
INSTEAD = r"train modules_to_save: \[embed_tokens\] with ensure_weight_tying: true"
# Settings, and the pattern of the message after `params.yaml: train`: where a library speaks, its first words.
SETTINGS: dict[str, tuple[dict[str, Any], str]] = {
    "no such module": (
        {"train.lora.target_modules": ["q_proj", "v_projj"]},
        rf"\.lora\.target_modules: v_projj matches no layer of BASE; did you mean v_proj\? {LAYERS}",
    ),
    "two names, and nothing like them": (
        {"train.lora.target_modules": ["zzz", "q_porj"]},
        rf"\.lora\.target_modules: q_porj matches no layer of BASE; did you mean q_proj\? {LAYERS}\n"
        rf"params\.yaml: train\.lora\.target_modules: zzz matches no layer of BASE; {LAYERS}",
    ),
    "a pattern that matches nothing": (
        {"train.lora.target_modules": r".*\.v_projj"},
        rf"\.lora\.target_modules: \.\*\\\.v_projj matches no layer of BASE; did you mean v_proj\? {LAYERS}",
    ),
    "a pattern that is none": (
        {"train.lora.target_modules": "*q_proj"},
        r"\.lora\.target_modules: \*q_proj is no regular expression \(nothing to repeat at position 0\)",
    ),
    "a name that is read as a pattern": (
        {"train.lora.target_modules": "q_proj"},
        r"\.lora\.target_modules: q_proj is a regular expression, and matches no full name; write \[q_proj\]",
    ),
    "a module that has no weights": (
        {"train.lora.modules_to_save": ["act_fn"]},
        rf"\.lora\.modules_to_save: act_fn has no weights to train in BASE; {LAYERS_AND_NORMS}",
    ),
    "no such module to save": (
        {"train.lora.modules_to_save": ["embed_tokenz"]},
        r"\.lora\.modules_to_save: embed_tokenz matches no layer of BASE; did you mean embed_tokens\? "
        rf"{LAYERS_AND_NORMS}",
    ),
    "no such module to leave out": (
        {"train.lora.exclude_modules": ["model.layers.1.mlp.up_porj"]},
        r"\.lora\.exclude_modules: model\.layers\.1\.mlp\.up_porj matches no layer of BASE; did you mean "
        rf"model\.layers\.1\.mlp\.up_proj\? {LAYERS}",
    ),
    "a module that is left out": (
        {"train.lora.target_modules": ["q_proj", "v_proj"], "train.lora.exclude_modules": ["v_proj"]},
        r"\.lora\.target_modules: v_proj matches no layer that exclude_modules leaves; delete one of them",
    ),
    "a rank for no layer": (
        {"train.lora.rank_pattern": {"q_porj": 2}},
        rf"\.lora\.rank_pattern: q_porj matches no layer of BASE; did you mean q_proj\? {LAYERS}",
    ),
    "a rank for a layer without an adapter": (
        {"train.lora.target_modules": ["q_proj"], "train.lora.rank_pattern": {"v_proj": 2}},
        r"\.lora\.rank_pattern: v_proj matches no layer that target_modules names; did you mean q_proj\? layers are: "
        "q_proj",
    ),
    "a rank that is no number": (
        {"train.lora.rank_pattern": {"q_proj": "2"}},
        r"\.lora\.rank_pattern: q_proj must have a positive number \(got '2'\)",
    ),
    "an alpha that another hides": (
        {"train.lora.alpha_pattern": {"q_proj": 4, "self_attn.q_proj": 8}},
        r"\.lora\.alpha_pattern: self_attn\.q_proj matches only layers that an earlier key matches; put it first",
    ),
    "no such layer": (
        {"train.lora.target_modules": ["q_proj"], "train.lora.layers_to_transform": [0, 2]},
        r"\.lora\.layers_to_transform: 2 is no layer of BASE that target_modules names; they are 0 to 1",
    ),
    "layers of full names": (
        {"train.lora.target_modules": [f"{LAYER_1}.q_proj"], "train.lora.layers_to_transform": 0},
        r"\.lora\.layers_to_transform: 0 is no layer of BASE that target_modules names; they are 1 to 1",
    ),
    "layers that full names pass over": (
        {
            "train.lora.target_modules": ["q_proj", f"{LAYER_1}.k_proj"],
            "train.lora.layers_to_transform": [0],
        },
        r"\.lora\.layers_to_transform: PEFT does not apply it to model\.layers\.1\.self_attn\.k_proj, which "
        "target_modules names in full; use one of the two",
    ),
    "no such list of layers": (
        {
            "train.lora.target_modules": ["q_proj"],
            "train.lora.layers_to_transform": [0],
            "train.lora.layers_pattern": "layer",
        },
        r"\.lora\.layers_pattern: layer matches no layer of BASE; did you mean layers\? layers are: layers",
    ),
    "tokens of their own": (
        {"train.lora.trainable_token_indices": []},
        r"\.lora: trainable_token_indices: \[\] cannot be merged; train without it",
    ),
    "an embedding without its other use": (
        {"train.lora.modules_to_save": ["embed_tokens"]},
        rf"\.lora\.modules_to_save: embed_tokens would no longer be shared: {SHARED}; set "
        r"train\.lora\.ensure_weight_tying: true, or train without it",
    ),
    "a head without its other use": (
        {"train.lora.modules_to_save": ["norm", "lm_head"]},
        rf"\.lora\.modules_to_save: lm_head would no longer be shared: {SHARED}; set "
        r"train\.lora\.ensure_weight_tying: true, or train without it",
    ),
    "a name for the embedding that PEFT does not tie": (
        {"train.lora.modules_to_save": ["tokens"], "train.lora.ensure_weight_tying": True},
        rf"\.lora\.modules_to_save: tokens cannot be trained: {SHARED}, and PEFT would train a copy for each use; "
        rf"{INSTEAD}",
    ),
    "the model around the embedding": (
        {"train.lora.target_modules": ["lm_head"], "train.lora.modules_to_save": ["model"]},
        rf"\.lora\.target_modules: lm_head cannot have an adapter: {SHARED}, and PEFT trains one for each use; "
        rf"{INSTEAD}",
    ),
    "an adapter of the embedding": (
        {"train.lora.target_modules": ["q_proj", "embed_tokens"], "train.lora.ensure_weight_tying": True},
        r"\.lora\.target_modules: model\.embed_tokens cannot have an adapter: "
        rf"{SHARED}, and PEFT trains one for each use; {INSTEAD}",
    ),
    "a bias for a layer without one": (
        {"train.lora.lora_bias": True},
        r"\.lora: model\.layers\.0\.mlp\.down_proj\.lora_B\.bias fits no tensor of BASE, and cannot be merged: it "
        r"has no bias \(lora_bias\); train without it",
    ),
    "layers twice": (
        {"train.lora.layer_replication": [[0, 2], [1, 2]]},
        r"\.lora: layer_replication: \[\[0, 2\], \[1, 2\]\] cannot be merged; train without it",
    ),
    "rank 0": ({"train.lora.r": 0}, r": `r` should be a positive integer value but the value passed is 0"),
    "another kind of LoRA": (
        {"train.lora.init_lora_weights": "pissa"},
        r"\.lora: init_lora_weights: 'pissa' cannot be merged; train without it",
    ),
    "other parameters": (
        {"train.lora.target_parameters": ["mlp.down_proj.weight"]},
        r"\.lora: target_parameters: \['mlp.down_proj.weight'\] cannot be merged; train without it",
    ),
    "a pack shorter than a row": (
        {"train.sft.packing": True, "train.sft.max_length": 7},
        r"\.sft\.max_length: must be at least \d\d, the length of the longest row, as packing cuts no row \(got 7\)",
    ),
    "a key of the stage": (
        {"train.sft.packing_strategy": "wrapped"},
        r"\.sft\.packing_strategy: set by the stage itself; delete the line",
    ),
    "max_length without packing": (
        {"train.sft.max_length": 64},
        r"\.sft\.max_length: set by the stage itself; delete the line",
    ),
}
WITHOUT_A_GPU: dict[str, tuple[dict[str, Any], str]] = {
    "four bits": (
        {"train.method": "qlora"},
        r"\.method: qlora needs an NVIDIA GPU \(no GPU visible; .*\); use lora here",
    ),
    "flash attention": (
        {"train.attn_implementation": "flash_attention_2"},
        r": FlashAttention2 .* seem to be installed.*",
    ),
    "flex attention": (
        {"train.attn_implementation": "flex_attention"},
        r": FlexAttention does not support backward on CPU.*",
    ),
    "Liger": ({"train.sft.use_liger_kernel": True}, r": You have set `use_liger_kernel` .* not available.*"),
    "8-bit optimizer": ({"train.sft.optim": "adamw_8bit"}, r": You need to install `bitsandbytes`.*"),
    "offloading": (
        {"train.sft.activation_offloading": True},
        r"\.sft\.activation_offloading: needs a GPU; delete the line",
    ),
    "a package": (
        {"train.machine.report_to": ["wandb"]},
        r"\.machine\.report_to: wandb is not installed; run `\.venv/bin/uv pip install --python \.venv "
        r"-c requirements/pipeline\.txt wandb`",
    ),
}


@pytest.mark.parametrize(("changes", "pattern"), SETTINGS.values(), ids=SETTINGS)
def test_settings_that_cannot_work(
    refuse: Callable[..., str], base: Path, changes: dict[str, Any], pattern: str
) -> None:
    found = refuse(changes)
    assert re.fullmatch(r"params\.yaml: train" + pattern.replace("BASE", re.escape(str(base))), found), found


@pytest.mark.parametrize(("changes", "pattern"), WITHOUT_A_GPU.values(), ids=WITHOUT_A_GPU)
@pytest.mark.skipif(device.choose().name == "cuda", reason="this machine has a GPU, so these settings work")
@pytest.mark.slow
def test_settings_that_need_another_machine(
    refuse: Callable[..., str], changes: dict[str, Any], pattern: str
) -> None:
    found = refuse(changes)
    assert re.fullmatch(r"params\.yaml: train" + pattern, found), found


@pytest.mark.parametrize(
    ("file", "name", "message"),
    [
        (
            "adapter_model.safetensors",
            "adapter_model.bin",
            "data/start/mine: no safetensors weights, and pickles are never loaded; convert them",
        ),
        (
            "adapter_config.json",
            "config.json",
            "data/start/mine: no adapter (adapter_config.json); name a folder with one in train.resume_from",
        ),
        (
            "base.json",
            "base.json",
            "params.yaml: train.lora.r: 8, but the adapter in data/start/mine has 4; use its value",
        ),
    ],
)
def test_a_folder_that_is_not_the_adapter_to_start_from(
    refuse: Callable[..., str], adapter: Path, tmp_path: Path, file: str, name: str, message: str
) -> None:
    start = tmp_path / "data" / "start" / "mine"
    shutil.copytree(adapter, start)
    (start / file).rename(start / name)
    assert refuse({"train.resume_from": "mine", "train.lora.r": 8}) == message


def test_an_adapter_with_other_settings_lists_them_all(
    refuse: Callable[..., str], adapter: Path, tmp_path: Path
) -> None:
    start = tmp_path / "data" / "start" / "mine"
    shutil.copytree(adapter, start)
    changes = {
        "train.resume_from": "mine",
        "train.lora.lora_dropout": 0.1,
        "train.lora.use_rslora": True,
        "train.lora.rank_pattern": {"q_proj": 2},
        "train.lora.target_modules": ["q_proj", "k_proj"],
        "train.lora.modules_to_save": ["norm"],
    }
    adapter_has = "but the adapter in data/start/mine has"
    assert refuse(changes) == (
        f"params.yaml: train.lora.lora_dropout: 0.1, {adapter_has} 0.0; use its value\n"
        f"params.yaml: train.lora.modules_to_save: [norm], {adapter_has} None; use its value\n"
        f"params.yaml: train.lora.rank_pattern: {{'q_proj': 2}}, {adapter_has} {{}}; use its value\n"
        f"params.yaml: train.lora.target_modules: [k_proj, q_proj], {adapter_has} [model.layers.0.mlp.down_proj and "
        "13 more]; use its value\n"
        f"params.yaml: train.lora.use_rslora: True, {adapter_has} False; use its value"
    )


def test_an_adapter_of_another_kind_is_refused(refuse: Callable[..., str], adapter: Path, tmp_path: Path) -> None:
    start = tmp_path / "data" / "start" / "mine"
    shutil.copytree(adapter, start)
    config = files.read_json(start / "adapter_config.json")
    for changes, message in (
        ({"init_lora_weights": "pissa"}, "init_lora_weights: 'pissa' cannot be merged; train without it"),
        ({"peft_type": "LOHA"}, "peft_type: 'LOHA' cannot be merged; train without it"),
        ({"of_tomorrow": 1}, "of_tomorrow: 1 cannot be merged; train without it"),
        ({"r": [1]}, "r: 4, but the adapter in data/start/mine has [1]; use its value"),
        ({"bias": "no"}, "bias: none by default, but the adapter in data/start/mine has no; use its value"),
    ):
        files.write_json(start / "adapter_config.json", config | changes)
        assert message in refuse({"train.resume_from": "mine"})
    (start / "adapter_config.json").write_text("{", encoding="utf-8")
    assert refuse({"train.resume_from": "mine"}) == (
        "data/start/mine/adapter_config.json:1:2: not JSON (Expecting property name enclosed in double quotes); "
        "fetch the adapter again, or name another folder in train.resume_from"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "models/base: no such file or folder; run `dvc repro base` first"),
        (("--base", "BASE"), "data/prepared/train.arrow: no such file or folder; run `dvc repro` first"),
        (
            ("--base", "BASE", "--train", "empty"),
            "empty: not a token file of the preprocess stage; run `dvc repro preprocess`",
        ),
    ],
)
def test_missing_inputs(
    params: Callable[..., Path], fail: Callable[..., str], base: Path, arguments: tuple[str, ...], message: str
) -> None:
    (params().parent / "empty").write_text("")
    assert fail(stage.main, *(base if part == "BASE" else part for part in arguments)) == message


def test_a_batch_that_does_not_divide() -> None:
    from stages.train.configs import split_batch

    with pytest.raises(click.ClickException) as raised:
        split_batch(32, 8, 3)
    assert raised.value.message == "train.batch_size 32 is not a multiple of 3 processes; change one of them"
