"""The .dvc file of imported rows: DVC keeps it, restores the rows by it, and reruns no stage for its facts."""

import contextlib
import hashlib
import importlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from import_project import OWN, ROWS, command, record, run, tree

dvc_file = importlib.import_module("tools.import.dvc_file")
pytestmark = pytest.mark.slow  # git and DVC run as processes


def test_dvc_sees_the_rows_and_restores_them(project: Path, source: Path, succeed: Callable[..., str]) -> None:
    assert "up to date" in run(project, "dvc status")
    succeed(command, source)
    assert json.loads(run(project, "dvc status --json")) == {
        "preprocess": [{"changed deps": {"data/raw": "modified"}}]
    }
    run(project, "dvc repro -q")
    prepared = project / "data/prepared/train.jsonl"
    assert prepared.read_bytes() == OWN + ROWS  # the stage's `*` finds no .dvc file there either
    for line in ("git add -A", "git commit -qm import", "dvc push -q"):
        run(project, line)
    before = tree(project)
    for path in (".dvc/cache", "data/prepared"):
        shutil.rmtree(project / path)
    (project / "data/raw/rows.jsonl").unlink()
    run(project, "dvc pull -q")
    assert tree(project) == before
    assert prepared.read_bytes() == OWN + ROWS
    assert "didn't change" in run(project, "dvc repro")
    assert run(project, "git status --porcelain") == ""


def test_the_recorded_facts_survive_dvc_and_never_rerun_a_stage(
    project: Path, source: Path, succeed: Callable[..., str]
) -> None:
    succeed(command, source, "--licence", "mit")
    run(project, "dvc repro -q")
    known = record(project, "rows.jsonl")
    file = project / "data/rows.jsonl.dvc"
    file.write_text(file.read_text(encoding="utf-8").replace("licence: mit", "licence: bsd"), encoding="utf-8")
    with (project / "data/raw/.gitignore").open("a", encoding="utf-8") as ignored:
        ignored.write("/mine.jsonl\n")
    assert "up to date" in run(project, "dvc status")
    known["meta"]["licence"] = "bsd"
    target = project / "data/raw/rows.jsonl"
    for line in ("dvc commit -f data/rows.jsonl.dvc", "dvc add data/raw/rows.jsonl"):
        target.unlink()
        target.write_bytes(ROWS + OWN)
        run(project, line)
        changed = record(project, "rows.jsonl")
        assert changed["outs"][0]["md5"] == hashlib.md5(ROWS + OWN).hexdigest()
        assert {key: changed[key] for key in ("desc", "meta")} == {key: known[key] for key in ("desc", "meta")}
    assert sorted(tree(project)) == ["raw/.gitignore", "raw/own.jsonl", "raw/rows.jsonl", "rows.jsonl.dvc"]


def test_a_hash_that_looks_like_a_number_stays_text(project: Path, source: Path) -> None:
    for number, revision in enumerate(("1" * 40, "1" * 20 + "e" + "1" * 19)):
        path = project / "data" / "raw" / "building" / f"rows-{number}.jsonl"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(ROWS)
        with contextlib.chdir(project):
            dvc_file.track(path, Path("data/raw") / path.name, {"meta": {"revision": revision}})
        assert record(project, path.name)["meta"] == {"revision": revision}
