"""Stage runs: the small params of the tests, and running a stage's command in a folder."""

import contextlib
import copy
import os
from pathlib import Path
from typing import Any

import click
from click.testing import CliRunner
from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[2]
# Every default with its reason: params.yaml as it comes. The file of that name, and the rows, may be a user's own.
DEFAULTS = ROOT / "recipes" / "tiny.yaml"
# Rows of public data sets: samples in this repository, or the whole files somewhere else.
ROWS = Path(os.environ.get("LOCKSTEP_ROWS", ROOT / "tests" / "rows"))
# Two layers of 128, a second of pretraining: enough to run every stage, not enough to answer anything.
TINY = {
    "seed": 7,
    "vocab_size": 512,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 512,
    "steps": 10,
    "batch_size": 4,
    "block_size": 128,
    "learning_rate": 0.003,
    "initializer_range": 0.02,
}
SMALL = {
    "base.tiny": TINY,
    "preprocess.calibration_rows": 16,
    "preprocess.max_length": 256,
    "train.batch_size": 8,
    "train.machine.device_batch_size": 4,
    "train.machine.report_to": [],
    "train.lora.r": 4,
    "train.lora.lora_alpha": 8,
    "train.sft.num_train_epochs": 1,
    "train.sft.logging_steps": 2,
    "merge.batch_size": 3,
    "awq.group_size": 32,
    "awq.samples": 16,
    "awq.max_seq_length": 64,
    "eval.batch_size": 3,
    "eval.max_new_tokens": 8,
    "eval.tasks": [],
    "compare.resamples": 100,
}


def write_params(folder: Path, changes: dict[str, Any]) -> Path:
    """Write the default params, made small and changed by dotted keys (`...` deletes), into `folder`."""
    document = YAML(typ="safe", pure=True).load(DEFAULTS.read_text(encoding="utf-8"))
    for dotted, value in copy.deepcopy(SMALL | changes).items():
        *parents, key = dotted.split(".")
        section = document
        for parent in parents:
            section = section[parent]
        if value is ...:
            del section[key]
        else:
            section[key] = value
    path = folder / "params.yaml"
    writer = YAML(typ="safe", pure=True)
    writer.width = 100_000  # a line that it breaks after a backslash reads as another text
    with path.open("w", encoding="utf-8") as file:
        writer.dump(document, file)
    return path


def succeed_in(folder: Path, main: click.Command, *arguments: str | Path) -> str:
    """Run a stage with `folder` as the working directory, and give what it printed."""
    with contextlib.chdir(folder):
        result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def fail_in(folder: Path, main: click.Command, *arguments: str | Path) -> str:
    """Run a stage that must fail with exit code 1 and no traceback, and give its error message."""
    with contextlib.chdir(folder):
        result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 1, result.output
    return result.stderr.rpartition("Error: ")[2].removesuffix("\n")
