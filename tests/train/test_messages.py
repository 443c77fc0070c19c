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

from stages.common import device
from stages.train import __main__ as stage

# Settings, and the pattern of the message after `params.yaml: train`: where a library speaks, its first words.
SETTINGS: dict[str, tuple[dict[str, Any], str]] = {
    "no such module": (
        {"train.lora.target_modules": ["q_porj"]},
        r": Target modules \{'q_porj'\} not found in the base model.*",
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
def test_settings_that_cannot_work(refuse: Callable[..., str], changes: dict[str, Any], pattern: str) -> None:
    found = refuse(changes)
    assert re.fullmatch(r"params\.yaml: train" + pattern, found), found


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
