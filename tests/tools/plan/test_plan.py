"""`make plan`: in a fresh clone, before any stage has run."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from recorded import ENVIRONMENT, run
from stage_runs import ROOT

from tools.plan.report import describe, duration, size

STAGES = ["base", "preprocess", "train", "merge", "awq", "eval@base", "eval@merged", "eval@awq", "compare", "report"]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """The files that git knows, as they are now, without models and without a cache."""
    folder = tmp_path / "clone"
    run(tmp_path, "git", "clone", "--quiet", str(ROOT), str(folder))
    for name in filter(
        None, run(ROOT, "git", "ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0")
    ):
        (folder / name).unlink(missing_ok=True)
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    return folder


def plan(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    variables = {name: value for name, value in ENVIRONMENT.items() if name not in ("RUN", "PYTHONPATH", "DVC_ROOT")}
    variables |= {"VENV": str(Path(sys.prefix)), "RUNTIME": "local"}
    line = [str(folder / "docker" / "run"), "--no-log", "python", "-m", "tools.plan", *options]
    return subprocess.run(line, cwd=folder, env=variables, capture_output=True, text=True)


@pytest.mark.slow
def test_a_fresh_clone_is_planned_before_any_stage_has_run(clone: Path) -> None:
    done = plan(clone, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [one["stage"] for one in found["stages"]] == STAGES
    *running, report = found["stages"]
    assert {one["does"] for one in running} == {"runs"}
    assert report["does"] in ("runs", "cached")  # all that it writes is in git
    for one in running:
        assert one["seconds"] > 0, one
        assert one["host_memory_bytes"] > 10e6, one
    assert found["about"]["weights"] == pytest.approx(1.05e6, rel=0.01)
    assert found["about"]["rows"]["calibration"] == 256
    assert found["total"]["seconds"] == pytest.approx(sum(one["seconds"] for one in found["stages"]), abs=1)
    assert found["total"]["download_bytes"] == 0
    assert found["batch"] == {"device_batch_size": 16, "largest": 16, "rows_per_step": 16}
    assert not (clone / "models").exists()
    assert not run(clone, "git", "status", "--porcelain", "--", "dvc.lock", "metrics", "models", "data")
    table = "\n".join(describe(found))
    assert "not in DVC's cache: models/base" in table
    assert "16 fit" in table


@pytest.mark.slow
def test_a_wrong_setting_is_one_line(clone: Path) -> None:
    params = clone / "params.yaml"
    params.write_text(
        params.read_text(encoding="utf-8").replace("sampels", "samples").replace("samples:", "sampels:")
    )
    done = plan(clone)
    assert done.returncode == 1
    assert "awq.sampels: unknown key; did you mean samples?" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("count", "expected"), [(None, "unknown"), (12, "12 B"), (1234, "1.23 kB"), (2_500_000, "2.5 MB"), (7e9, "7 GB")]
)
def test_sizes_are_short(count: float | None, expected: str) -> None:
    assert size(count) == expected


@pytest.mark.parametrize(("seconds", "expected"), [(None, "unknown"), (7.4, "7 s"), (150, "2 min"), (9000, "2.5 h")])
def test_times_are_short(seconds: float | None, expected: str) -> None:
    assert duration(seconds) == expected
