"""Seconds: how long each stage takes: as long as the last time with the same settings, else by its passes.

docker/run keeps the time of each stage in logs/RUN/STAGE/runtime.json, and beside it the params.yaml that it ran
with. A run counts for a stage if its params, and those of all stages before it, are the same and the raw rows older.
"""

import json
import math
import platform
from pathlib import Path
from typing import Any, NamedTuple

from stages.common.params import read_yaml

LOGS = Path("logs")
# What a stage takes until it works and after it has, as a multiple of what the libraries of train take to import:
# CPU seconds of each stage's start, by those of train's libraries.
STARTS = {
    "base": 1.1,
    "preprocess": 0.15,
    "train": 1.3,
    "merge": 1.1,
    "awq": 1.5,
    "eval": 1.4,
    "compare": 0.2,
    "report": 0.2,
}
BEFORE = {
    "base": ("base",),
    "preprocess": ("base", "preprocess"),
    "train": ("base", "preprocess", "train"),
    "merge": ("base", "preprocess", "train", "merge"),
    "awq": ("base", "preprocess", "train", "merge", "awq"),
    "eval": ("base", "preprocess", "train", "merge", "awq", "eval"),
    "compare": ("base", "preprocess", "train", "merge", "awq", "eval", "compare"),
    "report": ("base", "preprocess", "train", "merge", "awq", "eval", "compare", "gates"),
}
NEWEST = 20  # runs that are looked at
TRAINER = 1.15  # a step of the trainer by a step of a bare loop: at least 0.9 of its speed (tools/bench/train.py)
GRID = 20  # scales that AWQ tries for each part of a layer (llm-compressor: n_grid)
PASSES = 4  # other passes of the calibration rows through each layer: before, to smooth, to quantise, after
BYTES_PER_SECOND = 2e8  # of rewriting weights, and of hashing outs by DVC
NETWORK = 12.5e6  # bytes per second of a download: 100 Mbit/s


class Time(NamedTuple):
    """Seconds, and where they are from."""

    seconds: float
    known: str


def earlier(stage: str, params: Path, raw: Path, logs: Path = LOGS) -> Time | None:
    """Find the newest whole run of a stage on this machine with the same settings."""
    now = read_yaml(params)
    wanted = {name: now.get(name) for name in BEFORE[stage.partition("@")[0]]}
    changed = max((file.stat().st_mtime for file in raw.rglob("*") if file.is_file()), default=0.0)
    for facts in sorted(logs.glob(f"*/{stage}/runtime.json"), reverse=True)[:NEWEST]:
        kept = facts.with_name("params.yaml")
        found = json.loads(facts.read_text(encoding="utf-8"))
        if found.get("exit_code") or found.get("host") != platform.node() or not kept.exists():
            continue
        then = read_yaml(kept)
        if kept.stat().st_mtime > changed and {name: then.get(name) for name in wanted} == wanted:
            return Time(found["seconds"], f"logs/{facts.parent.parent.name}")
    return None


class Work(NamedTuple):
    """How often each stage passes the model.

    Attributes:
        steps: optimizer steps of train, each of `accumulated` forward and backward passes.
        accumulated: see `steps`.
        evaluated: val rows of all evaluations in train, in batches of eval.
        merge_batches: rows that merge and awq compare models on, in batches of eval.
        calibration_rows: rows of awq, one in each pass.
        eval_batches: batches of losses in eval.
        answer_batches: batches that answer.
        answer_tokens: tokens of an answer at most.
        task_rows: requests of tasks, by batch; None where the tasks are those of the harness.
        stored_bytes: of the base model.
        raw_rows: rows of preprocess.
        seconds_per_row: see rows.py.
        download_bytes: of base; None: not known.
    """

    steps: int
    accumulated: int
    evaluated: float
    merge_batches: float
    calibration_rows: int
    eval_batches: int
    answer_batches: int
    answer_tokens: int
    task_rows: int | None
    stored_bytes: float
    raw_rows: int
    seconds_per_row: float
    download_bytes: int | None


def estimate(work: Work, speed: Any, imports: float, pretraining: float) -> dict[str, float]:
    """Add up the passes of each stage.

    Args:
        work: how many there are.
        speed: the time of each, from probe.py.
        imports: seconds that train's libraries take to import.
        pretraining: seconds of the built-in model's training, 0 for other models.
    """
    start = {name: share * imports for name, share in STARTS.items()}
    moved = work.stored_bytes / BYTES_PER_SECOND
    compared = work.merge_batches * speed.forward
    answered = work.answer_batches * work.answer_tokens * speed.token
    tasks = (work.task_rows or 0) * speed.row
    calibrated = work.calibration_rows * (GRID + PASSES) * speed.row
    return {
        "base": start["base"] + pretraining + (work.download_bytes or 0) / NETWORK + moved,
        "preprocess": start["preprocess"] + work.raw_rows * (work.seconds_per_row or 0.0005),
        "train": start["train"]
        + TRAINER * work.steps * work.accumulated * speed.step
        + work.evaluated * speed.forward
        + moved,
        "merge": start["merge"] + 3 * compared + 3 * moved,
        "awq": start["awq"] + calibrated + 2 * compared + 4 * moved,
        "eval": start["eval"] + work.eval_batches * speed.forward + answered + tasks + moved,
        "compare": start["compare"] + 1,
        "report": start["report"] + 3 * moved,
    }


def count_steps(rows: int, batch: int, sft: Any) -> int:
    """Count the optimizer steps of a training."""
    if sft.max_steps > 0:
        return int(sft.max_steps)
    return math.ceil(sft.num_train_epochs * math.ceil(rows / batch))
