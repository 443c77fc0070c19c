"""Stale: what DVC would do with each stage, tried in a repository of two stages."""

import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

from tools.plan.stale import CACHED, RESTORED, RUNS, find_actions

pytestmark = pytest.mark.slow
STAGES = """
stages:
  first: {cmd: cp in.txt mid.txt, deps: [in.txt], outs: [mid.txt]}
  second: {cmd: cat mid.txt mid.txt > out.txt, deps: [mid.txt], params: [train.seed], outs: [out.txt]}
"""


def dvc(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "dvc", *words], check=True, capture_output=True)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository of two stages that have run, as the current folder."""
    monkeypatch.chdir(tmp_path)
    for name in ("DVC_ROOT", "PYTHONPATH"):
        monkeypatch.delenv(name, raising=False)
    dvc("init", "--quiet", "--no-scm")
    Path("dvc.yaml").write_text(STAGES, encoding="utf-8")
    Path("params.yaml").write_text("train: {seed: 7}\n", encoding="utf-8")
    Path("in.txt").write_text("one\n", encoding="utf-8")
    dvc("repro", "--quiet")
    return tmp_path


def found() -> list[tuple[str, str]]:
    actions = find_actions()
    assert list(actions) == ["first", "second"]
    return [(action.does, action.reason) for action in actions.values()]


def test_nothing_changed(project: Path) -> None:
    assert [does for does, _ in found()] == [CACHED, CACHED]


def test_a_changed_dep_runs_its_stage_and_what_follows(project: Path) -> None:
    Path("in.txt").write_text("two\n", encoding="utf-8")
    assert found() == [(RUNS, "modified: in.txt"), (RUNS, "follows first")]


def test_a_changed_param_runs_its_stage_alone(project: Path) -> None:
    Path("params.yaml").write_text("train: {seed: 8}\n", encoding="utf-8")
    assert found() == [(CACHED, "nothing changed"), (RUNS, "params.yaml: train.seed")]


def test_an_out_that_was_deleted_comes_from_the_cache(project: Path) -> None:
    Path("mid.txt").unlink()
    Path("out.txt").unlink()
    assert found() == [(RESTORED, "from DVC's cache: mid.txt"), (RESTORED, "from DVC's cache: out.txt")]


def test_a_fresh_clone_without_a_cache_runs_everything(project: Path) -> None:
    Path("mid.txt").unlink()
    Path("out.txt").unlink()
    shutil.rmtree(".dvc/cache")
    assert found() == [(RUNS, "not in DVC's cache: mid.txt"), (RUNS, "not in DVC's cache: out.txt")]


def test_an_earlier_run_of_the_same_inputs_is_restored(project: Path) -> None:
    Path("in.txt").write_text("two\n", encoding="utf-8")
    dvc("repro", "--quiet")
    Path("in.txt").write_text("one\n", encoding="utf-8")
    first, second = found()
    assert first == (RESTORED, "an earlier run of the same inputs (modified: in.txt)")
    assert second[0] == RUNS  # what it reads is not there yet
    dvc("repro", "--quiet", "first")
    assert [does for does, _ in found()] == [CACHED, RESTORED]


def test_a_broken_lock_is_one_line(project: Path) -> None:
    with Path("dvc.lock").open("a", encoding="utf-8") as file:
        file.write("<<<<<<< HEAD\n")
    with pytest.raises(click.ClickException, match="make doctor"):
        find_actions()
