"""On a GPU: the same bytes twice, four-bit training through to the merge, packed rows apart, faster kernels."""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stages import merge
from stages.common import device, files

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True, scope="module")
def gpu() -> device.Device:
    """Give the GPU, or skip."""
    place = device.choose()
    if place.name != "cuda":
        pytest.skip(f"needs an NVIDIA GPU: {place.reason}")
    return place


@pytest.fixture
def learn(params: Callable[..., Path], prepared: Path, base: Path, tmp_path: Path) -> Callable[..., Path]:
    """Train in a process of its own, with other params, into a folder of its own, and give that."""

    def learn(changes: dict[str, Any], name: str = "one") -> Path:
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

    return learn


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
def test_two_runs_on_one_gpu_give_the_same_bytes(learn: Callable[..., Path], changes: dict[str, Any]) -> None:
    one, two = (files.hashes(learn(changes, name)) for name in ("one", "two"))
    assert one == two


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
def test_four_bits_train_and_merge_into_the_unquantised_base(
    learn: Callable[..., Path], succeed: Callable[..., str], base: Path, prepared: Path, tmp_path: Path
) -> None:
    folder = learn({"train.method": "qlora"})
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
def test_faster_kernels_learn_alike(learn: Callable[..., Path], package: str, changes: dict[str, Any]) -> None:
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    plain, fast = (learn(given, name) for given, name in (({}, "plain"), (changes, "fast")))
    one, two = (json.loads((folder / "train.json").read_text(encoding="utf-8")) for folder in (plain, fast))
    assert two["eval_loss"] == pytest.approx(one["eval_loss"], rel=0.02)
