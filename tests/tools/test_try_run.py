"""`make try`: every stage runs on few rows in a copy, and the checkout stays as it is."""

import subprocess
import sys
from pathlib import Path

import pytest
from checkouts import committed_copy
from recorded import ENVIRONMENT, run
from stage_runs import DEFAULTS

from stages.common import files
from stages.common.params import read_yaml
from tools.try_run import smaller

STAGES = ("base", "preprocess", "train", "merge", "awq", "eval@base", "eval@merged", "eval@awq", "compare", "report")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The files that git knows, in a repository of their own, without models."""
    return committed_copy(tmp_path / "checkout")


def attempt(folder: Path) -> "subprocess.CompletedProcess[str]":
    """Run the command as make does."""
    variables = {name: value for name, value in ENVIRONMENT.items() if name not in ("RUN", "PYTHONPATH")}
    binaries = Path(sys.executable).parent
    variables |= {"VENV": str(binaries.parent), "PATH": f"{binaries}:{variables['PATH']}"}
    command = [sys.executable, "-m", "tools.try_run"]
    return subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True)


def test_fewer_rows_and_steps_and_the_other_settings_as_they_are() -> None:
    params = read_yaml(DEFAULTS)
    found = smaller(params)
    assert found["train"]["sft"] == params["train"]["sft"] | found["train"]["sft"]
    assert (found["preprocess"]["rows"], found["train"]["sft"]["max_steps"], found["eval"]["rows"]) == (32, 2, 8)
    assert (found["train"]["lora"], found["awq"]["scheme"]) == (params["train"]["lora"], params["awq"]["scheme"])
    assert params == read_yaml(DEFAULTS)


@pytest.mark.slow
def test_every_stage_runs_and_the_checkout_stays_as_it_is(checkout: Path) -> None:
    (checkout / "notes.txt").write_text("not committed", encoding="utf-8")
    before = files.hashes(checkout / "metrics"), run(checkout, "git", "status", "--porcelain")
    done = attempt(checkout)
    assert done.returncode == 0, done.stdout + done.stderr
    shown = [
        line.split()[0] for line in done.stdout.splitlines() if line.endswith(" s") and line.split()[0] in STAGES
    ]
    assert shown == list(STAGES)
    assert "every stage ran, in " in done.stdout
    assert (files.hashes(checkout / "metrics"), run(checkout, "git", "status", "--porcelain")) == before
    assert not (checkout / "models").exists()
    assert not (checkout / ".dvc" / "cache" / "files").exists()
    copy = checkout / ".scratch" / "try"
    assert (copy / "notes.txt").exists()
    gate = subprocess.run([sys.executable, "-m", "tools.gate"], cwd=copy, capture_output=True, text=True)
    assert "FAILED" in gate.stdout, gate.stderr  # it is judged, though DVC's cache has nothing of it
    assert files.read_json(copy / "metrics" / "preprocess.json")["rows_read"] == 32 * len(
        list((copy / "data/raw").glob("*.jsonl"))
    )


@pytest.mark.slow
def test_a_mistake_shows_with_the_place_of_the_logs(checkout: Path) -> None:
    params = checkout / "params.yaml"
    text = params.read_text(encoding="utf-8")
    params.write_text(text.replace("duo_scaling: both", "duo_scaling: twice"), encoding="utf-8")
    done = attempt(checkout)
    assert done.returncode == 1
    assert "params.yaml: awq.duo_scaling" in done.stdout + done.stderr
    assert done.stderr.endswith("the logs are in .scratch/try/logs\n")
