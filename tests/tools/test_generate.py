"""`make data`: the default rows."""

from pathlib import Path

import needs
from stage_runs import ROOT, succeed_in

from stages.base.tiny_tasks import SKILLS, WORDINGS
from tools import generate


def write(folder: Path) -> str:
    succeed_in(folder, generate.main, "--out", "rows.jsonl")
    return (folder / "rows.jsonl").read_text(encoding="utf-8")


def test_the_default_rows_are_what_the_generator_writes(tmp_path: Path) -> None:
    needs.default()
    assert write(tmp_path) == (ROOT / "data/raw/skills.jsonl").read_text(encoding="utf-8")


def test_the_default_rows_are_different_rows_of_many_skills(tmp_path: Path) -> None:
    rows = write(tmp_path).splitlines()
    assert len(rows) == len(set(rows)) == 4000
    assert len(SKILLS) >= 8
    assert set(SKILLS) == set(WORDINGS)
    assert all(len(set(wordings)) >= 3 for wordings in WORDINGS.values())
