"""Outputs: an adapter on every linear layer, scores, and the same bytes from another process."""

import json
import math
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from stage_runs import ROOT
from training import scores, weights

from stages.common import files, tokens

LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def adapter_config(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))


def test_every_linear_layer_and_nothing_else_has_an_adapter(adapter: Path, base: Path) -> None:
    from safetensors import safe_open

    with safe_open(base / "model.safetensors", framework="pt") as file:
        layers = {
            name.removesuffix(".weight"): file.get_slice(name).get_shape()
            for name in file.keys()  # noqa: SIM118  not a dict
            if name.endswith(".weight") and name.split(".")[-2] in LINEAR
        }
    assert len(layers) == 2 * 7
    expected = {}
    for name, (height, width) in layers.items():
        expected[f"base_model.model.{name}.lora_A.weight"] = (4, width)
        expected[f"base_model.model.{name}.lora_B.weight"] = (height, 4)
    assert {name: tuple(weight.shape) for name, weight in weights(adapter).items()} == expected
    config = adapter_config(adapter)
    assert config["target_modules"] == sorted(layers)
    assert (config["r"], config["lora_alpha"], config["task_type"]) == (4, 8, "CAUSAL_LM")


def test_only_the_adapter_is_trained(adapter: Path, workspace: Path, base: Path) -> None:
    trained = weights(adapter)
    found = scores(workspace)
    assert found["trainable_parameters"] == sum(weight.numel() for weight in trained.values())
    assert all(weight.abs().sum() > 0 for weight in trained.values())
    manifest = json.loads((base / "manifest.json").read_text(encoding="utf-8"))
    assert {name: files.sha256(base / name) for name in manifest["files"]} == manifest["files"]


def test_the_scores_count_rows_tokens_and_steps(adapter: Path, workspace: Path, prepared: Path) -> None:
    found = scores(workspace)
    train, val = (tokens.read(prepared / f"{name}.arrow") for name in ("train", "val"))
    assert (found["rows_train"], found["rows_val"]) == (len(train), len(val))
    assert found["steps"] == math.ceil(len(train) / 8)
    assert found["supervised_tokens"] == sum(sum(row.mask) for row in train)
    assert found["total_parameters"] > 10 * found["trainable_parameters"]


def test_no_output_holds_a_path_or_a_host(adapter: Path, workspace: Path) -> None:
    assert {path.name for path in adapter.iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "base.json",
    }
    for folder in (adapter, workspace / "metrics"):
        for path in folder.rglob("*"):
            content = path.read_bytes() if path.is_file() else b""
            for private in (str(workspace), str(ROOT), str(Path.home()), f'"{socket.gethostname()}"'):
                assert private.encode() not in content, (path, private)


@pytest.mark.parametrize(
    ("modules", "saved"), [(["up_proj", "q_proj"], ["q_proj", "up_proj"]), (".*q_proj", ".*q_proj")]
)
def test_modules_are_sorted_and_a_pattern_stays_a_pattern(
    modules: Any, saved: Any, trainer: Callable[..., Any], base: Path, tmp_path: Path
) -> None:
    from stages.train.output import save_model

    changes = {"train.lora.target_modules": modules, "train.lora.use_rslora": True, "train.lora.lora_alpha": 3}
    out = tmp_path / "out"
    out.mkdir()
    save_model(trainer(changes).model, out, base)
    config = adapter_config(out)
    assert config["target_modules"] == saved
    assert (config["lora_alpha"], config["use_rslora"]) == (3, True)


@pytest.mark.slow
def test_another_process_trains_the_same_bytes(adapter: Path, workspace: Path, tmp_path: Path) -> None:
    for name in ("params.yaml", "data"):
        (tmp_path / name).symlink_to(workspace / name)
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "base").symlink_to(workspace / "models" / "base")
    # Sets of strings have another order there.
    environment = os.environ | {"PYTHONHASHSEED": "1", "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-m", "stages.train"], cwd=tmp_path, env=environment, check=True, timeout=300)
    assert files.hashes(tmp_path / "models" / "adapter") == files.hashes(adapter)
    assert files.hashes(tmp_path / "metrics" / "train") == files.hashes(workspace / "metrics" / "train")
    assert scores(tmp_path) == scores(workspace)
