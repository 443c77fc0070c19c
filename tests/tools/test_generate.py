"""`make data`: the default rows."""

from pathlib import Path

from click.testing import CliRunner
from stage_runs import ROOT

from stages.base.tiny_tasks import SKILLS, WORDINGS
from tools import generate


def test_the_default_rows_are_what_the_generator_writes(tmp_path: Path) -> None:
    done = CliRunner().invoke(generate.main, ["--out", str(tmp_path / "rows.jsonl")])
    assert done.exit_code == 0
    assert (tmp_path / "rows.jsonl").read_bytes() == (ROOT / "data/raw/skills.jsonl").read_bytes()


def test_the_default_rows_are_different_rows_of_many_skills() -> None:
    rows = (ROOT / "data/raw/skills.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(rows) == len(set(rows)) == 4000
    assert len(SKILLS) >= 8
    assert set(SKILLS) == set(WORDINGS)
    assert all(len(set(wordings)) >= 3 for wordings in WORDINGS.values())
