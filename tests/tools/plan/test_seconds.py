"""Seconds: which earlier run counts, and how passes add up."""

import json
import os
import platform
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tools.plan import probe
from tools.plan.seconds import Time, Work, count_steps, earlier, estimate

WORK = Work(10, 2, 6, 3, 5, 4, 2, 8, 1, 0.0, 100, 0.01, 0)


@pytest.fixture
def ran(tmp_path: Path, params: Callable[..., Path]) -> Callable[..., Path]:
    """Write the log of a run, as docker/run does."""
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "rows.jsonl").write_text("{}", encoding="utf-8")
    os.utime(tmp_path / "raw" / "rows.jsonl", (1, 1))

    def ran(run: str, changes: dict[str, Any], **facts: Any) -> Path:
        folder = tmp_path / "logs" / run / "train"
        folder.mkdir(parents=True)
        shutil.copy(params(changes), folder / "params.yaml")
        known = {"exit_code": 0, "host": platform.node(), "seconds": 30.0} | facts
        (folder / "runtime.json").write_text(json.dumps(known), encoding="utf-8")
        return folder

    return ran


def find(tmp_path: Path, path: Path, stage: str = "train") -> Time | None:
    return earlier(stage, path, tmp_path / "raw", tmp_path / "logs")


def test_the_newest_run_with_the_same_settings_counts(
    tmp_path: Path, ran: Callable[..., Path], params: Callable[..., Path]
) -> None:
    ran("20260101-000000", {}, seconds=20.0)
    ran("20260102-000000", {}, seconds=30.0)
    ran("20260103-000000", {"train.seed": 8}, seconds=40.0)
    ran("20260104-000000", {}, seconds=1.0, exit_code=1)
    ran("20260105-000000", {}, seconds=2.0, host="another")
    found = find(tmp_path, params({}))
    assert found == Time(30.0, "logs/20260102-000000")
    assert find(tmp_path, params({"eval.rows": 3})) == found  # of a later stage
    assert find(tmp_path, params({"preprocess.rows": 3})) is None  # of an earlier one
    assert find(tmp_path, params({}), "merge") is None


def test_rows_that_are_newer_make_a_run_another_one(
    tmp_path: Path, ran: Callable[..., Path], params: Callable[..., Path]
) -> None:
    kept = ran("20260101-000000", {}) / "params.yaml"
    path = params({})
    assert find(tmp_path, path)
    os.utime(tmp_path / "raw" / "rows.jsonl", (kept.stat().st_mtime + 10,) * 2)
    assert find(tmp_path, path) is None


def test_passes_add_up() -> None:
    nothing = estimate(WORK, probe.Speed(0, 0, 0, 0), 0.0, 0.0)
    step = estimate(WORK, probe.Speed(1, 0, 0, 0), 0.0, 0.0)
    assert step["train"] - nothing["train"] == pytest.approx(1.15 * 20)
    row = estimate(WORK, probe.Speed(0, 0, 1, 0), 0.0, 0.0)
    assert row["awq"] - nothing["awq"] == 5 * 24
    token = estimate(WORK, probe.Speed(0, 0, 0, 1), 0.0, 0.0)
    assert token["eval"] - nothing["eval"] == 16
    assert nothing["preprocess"] == 1
    assert all(value > nothing[name] for name, value in estimate(WORK, probe.Speed(0, 0, 0, 0), 5.0, 0.0).items())


def test_steps_are_those_of_the_trainer() -> None:
    from types import SimpleNamespace

    assert count_steps(3589, 16, SimpleNamespace(max_steps=-1, num_train_epochs=3)) == 675  # metrics/train.json
    assert count_steps(3589, 16, SimpleNamespace(max_steps=2, num_train_epochs=3)) == 2


def test_deep_models_are_measured_on_few_layers() -> None:
    from transformers import Qwen2Config

    from stages.common import device

    shape = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 2, "num_key_value_heads": 2}
    few, many = (
        probe.measure_speed(
            Qwen2Config(**shape, vocab_size=64, num_hidden_layers=layers),
            "sdpa",
            (2, 16),
            (2, 16),
            16,
            (2, 16),
            lambda model: model.requires_grad_(True),
            device.choose(),
        )
        for layers in (4, 40)
    )
    assert all(value > 0 for value in few)
    assert many.step > 2 * few.step


def test_a_busy_machine_does_not_count() -> None:
    import time

    assert probe.seconds_of(lambda: time.sleep(0.2)) < 0.1  # nothing was computed
    assert probe.seconds_of(lambda: time.sleep(0.2), on_gpu=True) >= 0.2
