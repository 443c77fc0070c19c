"""Preflight: what would end a later stage ends the first one, before any time is spent."""

import json
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from stage_runs import ROOT

from tools import preflight

WIDE = {"model.layers.0.mlp.down_proj.weight": [64, 576], "model.layers.0.mlp.up_proj.weight": [576, 64]}


def write_header(folder: Path, shapes: dict[str, list[int]]) -> None:
    """Write the header of a model, whose weights may be larger than any disk."""
    start, header = 0, {}
    for name, (rows, columns) in shapes.items():
        header[name] = {
            "dtype": "BF16",
            "shape": [rows, columns],
            "data_offsets": [start, start + 2 * rows * columns],
        }
        start += 2 * rows * columns
    text = json.dumps(header).encode()
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text)


@pytest.fixture
def models(tmp_path: Path, params: Callable[..., Path]) -> Path:
    """The folder `models` of a workspace with params.yaml."""
    return params({"awq.group_size": "auto"}).parent / "models"


def test_the_default_params_and_model_pass(base: Path, workspace: Path, succeed: Callable[..., str]) -> None:
    params = workspace / "params.yaml"
    assert succeed(preflight.main, "--params", params, "--base", base, "--stage", "train") == ""


def test_keys_of_all_later_stages_are_checked(params: Callable[..., Path], fail: Callable[..., str]) -> None:
    path = params({"awq.sampels": 3, "eval.rows": "many", "gates.train_eval_loss.max": None})
    message = fail(preflight.main, "--params", path)
    for key in ("awq.sampels: unknown key", "eval.rows:", "gates.train_eval_loss:"):
        assert f"{path}: {key}" in message


@pytest.mark.parametrize(("wanted", "passes"), [("auto", True), (64, True), (128, False)])
def test_the_group_size_must_fit_the_layers(
    models: Path,
    params: Callable[..., Path],
    succeed: Callable[..., str],
    fail: Callable[..., str],
    wanted: Any,
    passes: bool,
) -> None:
    write_header(models / "base", WIDE)
    params({"awq.group_size": wanted})
    if passes:
        assert succeed(preflight.main) == ""
    else:
        assert "awq.group_size: 128 does not divide the input width of model.layers.0.mlp.down_proj (576)" in fail(
            preflight.main
        )


def test_an_ignored_layer_and_the_embeddings_need_not_fit(models: Path, succeed: Callable[..., str]) -> None:
    write_header(models / "base", {"model.embed_tokens.weight": [999, 33], "lm_head.weight": [999, 33], **WIDE})
    assert succeed(preflight.main) == ""


def test_too_little_memory_and_disk_end_train_and_are_notes_before(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_header(models / "base", {"model.layers.0.mlp.up_proj.weight": [1 << 25, 1 << 20]})
    monkeypatch.chdir(models.parent)
    rows = Path("data/raw/rows.jsonl")
    rows.parent.mkdir(parents=True)
    rows.touch()
    for stage, code in (("preprocess", 0), ("train", 1)):
        result = CliRunner().invoke(preflight.main, ["--stage", stage])
        assert result.exit_code == code
        output = result.stderr
        assert "memory: train.method lora of models/base (35184.37 G weights) needs more than" in output
        assert "models/merged and models/awq need" in output


def test_a_damaged_model_is_left_to_the_stage_that_made_it(models: Path, succeed: Callable[..., str]) -> None:
    (models / "base").mkdir(parents=True)
    (models / "base" / "model.safetensors").write_bytes(b"\xff" * 100)
    assert succeed(preflight.main) == ""


@pytest.mark.slow
def test_the_first_stage_ends_by_the_mistake_of_a_later_one(tmp_path: Path, params: Callable[..., Path]) -> None:
    params({"awq.sampels": 3})
    for name in ("docker", "stages", "tools"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    environment = {key: value for key, value in os.environ.items() if key not in ("DVC_ROOT", "PYTHONPATH")}
    done = subprocess.run(
        [sys.executable, "docker/run", "python", "-m", "stages.base"],
        cwd=tmp_path,
        env=environment | {"RUNTIME": "local", "VENV": sys.prefix},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "params.yaml: awq.sampels: unknown key; did you mean samples?" in done.stderr
    assert not (tmp_path / "models").exists()


def test_a_text_that_dvc_would_not_read_back_is_refused(
    tmp_path: Path, params: Callable[..., Path], fail: Callable[..., str], succeed: Callable[..., str]
) -> None:
    """Its stage would be stale after every run, and no model would be served."""
    stages = {"stages": {"base": {"cmd": "true", "params": ["base.chat_template", "base.id"]}}}
    (tmp_path / "dvc.yaml").write_text(json.dumps(stages), encoding="utf-8")
    path = params({"base.chat_template": (ROOT / "data/templates/smollm2.jinja").read_text(encoding="utf-8")})
    message = fail(preflight.main, "--params", path)
    assert "params.yaml: base.chat_template: DVC does not read this text back from dvc.lock as it is" in message
    succeed(preflight.main, "--params", params({"base.chat_template": "own.jinja"}))


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_dvc_keeps_every_value_of_the_recipes(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    preflight.check_stored(path)
