"""Checkpoints: which folder names count, and which files of code are part of the key."""

from pathlib import Path

import pytest
from stage_runs import ROOT, write_params

from stages.common.params import load_params
from stages.train import checkpoints
from stages.train.params import TrainParams


def test_other_names_are_not_checkpoints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("checkpoint-2", "checkpoint-10", "checkpoint-x", "checkpoint-3.broken", "best"):
        (tmp_path / name).mkdir()
    assert [path.name for path in checkpoints.newest_first(tmp_path)] == ["checkpoint-10", "checkpoint-2"]
    assert checkpoints.next_start(tmp_path) == "it resumes from step 10"


def test_a_checkpoint_without_its_list_of_files_is_set_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "key"
    (folder / "checkpoint-10").mkdir(parents=True)
    with checkpoints.reserved(folder, None, True):
        assert checkpoints.newest_first(folder) == []
    assert checkpoints.next_start(folder) == "it starts from step 0"
    out, err = capsys.readouterr()
    assert err == "checkpoint-10 set aside: files.json is missing or broken\n"
    assert out == f"starting from step 0; checkpoints go to {folder}\n"


def test_the_key_has_the_code_deps_of_the_stage_and_the_lock() -> None:
    found = {path.relative_to(ROOT).as_posix() for path in checkpoints.code_files()}
    assert {"stages/train/__main__.py", "stages/common/files.py", "requirements/pipeline.txt"} <= found
    assert {path.relative_to(ROOT).as_posix() for path in (ROOT / "stages" / "train").glob("*.py")} <= found
    assert not [name for name in found if "__pycache__" in name or name.startswith("stages/merge")]


def test_the_number_of_processes_is_part_of_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_params(write_params(tmp_path, {}), "train", TrainParams)
    one = checkpoints.checkpoint_folder(config, [])
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert checkpoints.checkpoint_folder(config, []) != one
