"""The recipe smollm2-135m, made short: a real model passes every stage, and what each must hold is in the metrics."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from smollm2 import SETTINGS
from stage_runs import ROOT, succeed_in, write_params

from stages.awq import __main__ as awq
from stages.common import files
from stages.compare import __main__ as compare
from stages.eval import __main__ as evaluate
from stages.merge import __main__ as merge
from stages.preprocess import __main__ as preprocess
from stages.report import __main__ as report
from stages.report.gates import GATES
from stages.train import __main__ as train

pytestmark = pytest.mark.slow

SHORT = {
    "preprocess.rows": 60,
    "preprocess.calibration_rows": 4,
    "train.sft.max_steps": 3,
    "train.batch_size": 8,
    "train.machine.device_batch_size": 8,
    "merge.rows": 6,
    "awq.samples": 4,
    "awq.duo_scaling": False,
    "eval.rows": 6,
    "eval.max_new_tokens": 6,
    "compare.resamples": 100,
}


def test_a_real_model_goes_through_every_stage(smollm2: Path, tmp_path: Path) -> None:
    write_params(tmp_path, SETTINGS | SHORT)
    for name in ("raw", "general", "tasks", "benchmarks"):
        shutil.copytree(ROOT / "data" / name, tmp_path / "data" / name)
    (tmp_path / "requirements").mkdir()
    shutil.copy(ROOT / "requirements" / "pipeline.txt", tmp_path / "requirements")
    shutil.copytree(smollm2, tmp_path / "models" / "base")
    for stage in (preprocess, train, merge, awq):
        succeed_in(tmp_path, stage.main)
    for model in ("base", "merged", "awq"):
        outs = ("--metrics", f"metrics/eval/{model}.json", "--answers", f"metrics/eval/{model}.answers.jsonl")
        succeed_in(tmp_path, evaluate.main, "--model", f"models/{model}", *outs)
    for stage in (compare, report):
        succeed_in(tmp_path, stage.main)

    def metric(name: str) -> Any:
        return json.loads((tmp_path / "metrics" / f"{name}.json").read_text(encoding="utf-8"))

    assert (metric("preprocess")["rows_read"], metric("preprocess")["rows_kept"]) == (60, 60)
    assert metric("preprocess")["rows_without_supervised_stop"] == 0
    merged, quantised = metric("merge"), metric("awq")
    assert (merged["merged_tensors"], merged["checked_tensors"], merged["misplaced_weights"]) == (210, 210, 0)
    assert 0 < merged["kl_mean"] < merged["kl_base_mean"]
    assert quantised["quantized_modules"] == quantised["expected_modules"] == 210
    assert merged["kl_mean"] < quantised["kl_mean"]
    assert quantised["kept"] < merged["kept"] < 1
    assert metric("eval/merged")["loss"] < metric("eval/base")["loss"]
    assert metric("gates").keys() == GATES.keys()
    origin = metric("lineage")["base"]
    assert origin["id"] == f"{SETTINGS['base.gguf.package']}/{Path(SETTINGS['base.gguf.file']).name}"
    assert files.size_bytes(tmp_path / "models" / "merged") == files.size_bytes(smollm2)
