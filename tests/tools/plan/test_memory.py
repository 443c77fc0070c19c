"""Memory: what is computed from shapes is what the stages take, measured in processes of their own."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import needs as needed
import pytest
from stage_runs import ROOT, write_params

from tools.plan import needs
from tools.plan.memory import QLORA_BITS, cache_bytes

SHARE = 0.2  # that the estimate may be off
SHAPE = {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 4, "num_attention_heads": 4}
VOCABULARY = 12_000
QUICK = {"merge.rows": 8, "awq.samples": 4, "eval.rows": 8, "eval.max_new_tokens": 4, "train.sft.max_steps": 2}
PEAK = """
import json, os, subprocess, sys
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
error = process.stderr.read()
_, status, usage = os.wait4(process.pid, 0)
print(json.dumps([usage.ru_maxrss * 1024, status, error[-2000:]]))
"""


@pytest.fixture(scope="module")
def larger(tmp_path_factory: pytest.TempPathFactory, base: Path, prepared: Path, workspace: Path) -> Path:
    """A folder with the session's rows, and a model of nine million random weights."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    folder = tmp_path_factory.mktemp("larger")
    shutil.copytree(workspace / "data", folder / "data", symlinks=False)
    shutil.copytree(base, folder / "models" / "base", ignore=shutil.ignore_patterns("*.safetensors", "config.json"))
    torch.manual_seed(7)
    ends = json.loads((base / "config.json").read_text(encoding="utf-8"))
    special = {key: ends.get(key) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    config = Qwen2Config(**SHAPE, num_key_value_heads=4, vocab_size=VOCABULARY, tie_word_embeddings=True, **special)
    Qwen2ForCausalLM(config).to(torch.bfloat16).save_pretrained(folder / "models" / "base")
    return folder


def measured(folder: Path, stage: str, *arguments: str) -> int:
    """Run a stage as docker/run does, and return the most memory that it had."""
    stages = [str(ROOT / "docker" / "run"), "--no-log", "python", "-m", f"stages.{stage}", *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "RUNTIME": "local", "VENV": sys.prefix}
    environment.pop("LD_PRELOAD", None)
    done = subprocess.run(
        [sys.executable, "-c", PEAK, *stages], cwd=folder, env=environment, capture_output=True, text=True, check=True
    )
    peak, status, error = json.loads(done.stdout)
    assert status == 0, error
    return int(peak)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "stages"),
    [
        ({}, ["train", "merge", "awq", "eval"]),
        ({"train.method": "full"}, ["train"]),
        ({"train.sft.gradient_checkpointing": True, "train.machine.device_batch_size": 8}, ["train"]),
    ],
    ids=["lora", "full", "checkpointing"],
)
def test_the_memory_of_a_stage_is_what_it_takes(
    larger: Path, planned: Callable[[Path], Any], changes: dict[str, Any], stages: list[str]
) -> None:
    if needed.has_gpu():
        needed.missing("no gpu")
    write_params(larger, QUICK | changes)
    model, lengths, training, sections = planned(larger)
    quantised = needs.written(model, lengths, training, sections)["quantised"]
    shapes = needs.find_shapes(model, lengths, sections, quantised)
    found = needs.memory_needs(model, training, shapes, sections)
    for stage in stages:
        outs = ("--metrics", "metrics/merged.json", "--answers", "metrics/merged.answers.jsonl")
        peak = measured(larger, stage, *(("--model", "models/merged", *outs) if stage == "eval" else ()))
        assert found[stage].host == pytest.approx(peak, rel=SHARE), stage


def test_the_bytes_that_stages_write_are_those_of_their_files(
    workspace: Path, awq: Path, planned: Callable[[Path], Any]
) -> None:
    model, lengths, training, sections = planned(workspace)
    written = needs.written(model, lengths, training, sections)
    for stage, folder in (("base", "base"), ("train", "adapter"), ("merge", "merged"), ("awq", "awq")):
        size = sum(file.stat().st_size for file in (awq.parent / folder).glob("*.safetensors"))
        assert written[stage].kept == pytest.approx(size, rel=0.02, abs=8000), stage  # headers


def test_a_gpu_needs_less_for_qlora_than_for_lora(
    workspace: Path, prepared: Path, planned: Callable[[Path], Any]
) -> None:
    import torch

    from stages.common.device import Device

    _, _, training, _ = planned(workspace)
    training.device = Device("cuda", torch.bfloat16, "a GPU that is thought of")
    training.arguments.use_cpu, training.arguments.bf16 = False, True
    lora, qlora, full = (training.need(4, method=method).gpu for method in ("lora", "qlora", "full"))
    assert qlora < lora < full
    linear = 2 * (128 * 128 * 2 + 128 * 64 * 2 + 3 * 128 * 256)  # of the two layers of the built-in model
    assert lora - qlora == pytest.approx(linear * (2 - QLORA_BITS / 8), rel=0.01)


def test_the_cache_has_keys_and_values_of_each_token() -> None:
    from transformers import Qwen2Config

    config = Qwen2Config(hidden_size=64, num_attention_heads=4, num_key_value_heads=2, num_hidden_layers=3)
    assert cache_bytes(config, 5, 7, 4) == 2 * 3 * 2 * 16 * 5 * 7 * 4
