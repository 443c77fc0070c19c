"""Training on a GPU: two runs give the same bytes, QLoRA up to the merge, faster kernels. Skipped without a GPU."""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from needs import missing
from stage_runs import ROOT

from stages.common import device, files
from stages.merge import __main__ as merge

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True, scope="module")
def gpu() -> None:
    """Skip where there is no GPU."""
    hardware = device.choose()
    if hardware.name != "cuda":
        missing("gpu")


@pytest.fixture
def train(params: Callable[..., Path], prepared: Path, base: Path, tmp_path: Path) -> Callable[..., Path]:
    """Train in a process of its own, with changed params, and return the folder of its outputs."""

    def train(changes: dict[str, Any], name: str = "one") -> Path:
        file, folder = params(changes), tmp_path / name
        paths = {
            "--params": file,
            "--base": base,
            "--train": prepared / "train.arrow",
            "--val": prepared / "val.arrow",
            "--out": folder / "adapter",
            "--metrics": folder / "train.json",
            "--curves": folder / "curves",
        }
        folder.mkdir()
        command = [sys.executable, "-m", "stages.train", *(str(part) for pair in paths.items() for part in pair)]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return folder

    return train


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"train.sft.packing": True, "train.sft.max_length": 128},
        {"train.sft.gradient_checkpointing": True},
        {"train.method": "full"},
    ],
    ids=["lora", "packed", "gradient_checkpointing", "full"],
)
def test_two_runs_on_one_gpu_give_the_same_bytes(train: Callable[..., Path], changes: dict[str, Any]) -> None:
    one, two = (files.hashes(train(changes, name)) for name in ("one", "two"))
    assert one == two


def test_qlora_trains_and_merges_into_the_unquantised_base(
    train: Callable[..., Path], succeed: Callable[..., str], base: Path, prepared: Path, tmp_path: Path
) -> None:
    if importlib.util.find_spec("bitsandbytes") is None:
        missing("kernels")
    folder = train({"train.method": "qlora"})
    out = tmp_path / "merged"
    succeed(
        merge.main,
        *("--base", base, "--adapter", folder / "adapter", "--val", prepared / "val.arrow"),
        *("--out", out, "--metrics", tmp_path / "merge.json"),
    )
    assert files.size_bytes(out) == files.size_bytes(base)
    assert json.loads((tmp_path / "merge.json").read_text(encoding="utf-8"))["top1_agreement"] > 0.95


@pytest.mark.parametrize(
    ("package", "changes"),
    [
        ("flash_attn", {"train.attn_implementation": "flash_attention_2", "train.sft.padding_free": True}),
        ("liger_kernel", {"train.sft.use_liger_kernel": True}),
    ],
)
def test_faster_kernels_reach_the_same_loss(
    train: Callable[..., Path], package: str, changes: dict[str, Any]
) -> None:
    if importlib.util.find_spec(package) is None:
        missing("kernels")
    plain, fast = (train(chosen, name) for chosen, name in (({}, "plain"), (changes, "fast")))
    one, two = (json.loads((folder / "train.json").read_text(encoding="utf-8")) for folder in (plain, fast))
    assert two["eval_loss"] == pytest.approx(one["eval_loss"], rel=0.02)
