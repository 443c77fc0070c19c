"""A commit whose files are of more than one run, and what the tools say of it."""

import json

import pytest
from lineage_runs import lineage_json, notes
from recorded import Recorded, commit, record
from stage_runs import fail_in

from tools.lineage import __main__ as lineage

pytestmark = pytest.mark.slow  # DVC records the runs


def test_a_commit_of_two_runs_is_noted(clean: Recorded) -> None:
    metric = clean.folder / "metrics" / "merge.json"
    metric.write_text(metric.read_text(encoding="utf-8").replace("0", "1"), encoding="utf-8")
    tampered = commit(clean.folder, "a nicer figure")
    assert lineage_json(clean.folder, "--rev", "HEAD")["differs"] == ["metrics/merge.json"]
    assert f"note: not what dvc.lock at {tampered} says: metrics/merge.json\n" in notes(clean.folder)
    assert "metrics/merge.json" in fail_in(clean.folder, lineage.main, "--format", "cyclonedx")


def test_hashes_of_another_model_and_other_rows_are_named(clean: Recorded) -> None:
    facts = clean.folder / "metrics" / "lineage.json"
    listed = json.loads(facts.read_text(encoding="utf-8"))
    listed["files"][-1]["md5"] = "0" * 32
    facts.write_text(json.dumps(listed), encoding="utf-8")
    record(clean.folder, "a forged list", report_too=False)
    assert lineage_json(clean.folder, "--rev", "HEAD")["differs"] == ["models/awq"]
    imported = clean.folder / "data" / "rows.jsonl.dvc"
    imported.write_text(imported.read_text(encoding="utf-8").replace("md5: ", "md5: f"), encoding="utf-8")
    commit(clean.folder, "other rows")
    different = ["data/raw", "data/raw/rows.jsonl", "models/awq"]
    assert lineage_json(clean.folder, "--rev", "HEAD")["differs"] == different


@pytest.mark.parametrize(
    ("name", "old", "new", "different"),
    [
        ("stages/train/__main__.py", "def main", "def  main", "stages/train"),
        ("stages/common/files.py", "def write_texts", "def  write_texts", "stages/common/files.py"),
        ("params.yaml", "group_size: 32", "group_size: 64", "params.yaml"),
        ("data/benchmarks/more.txt", "", "a question", "data/benchmarks"),
        ("requirements/pipeline.txt", "2.13.0", "2.14.0", "requirements/pipeline.txt"),
    ],
)
def test_code_params_and_data_changed_after_the_run_are_named(
    clean: Recorded, name: str, old: str, new: str, different: str
) -> None:
    path = clean.folder / name
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    record = clean.folder / "data" / "rows.jsonl.dvc"
    record.write_text(record.read_text(encoding="utf-8") + "# words\n", encoding="utf-8")
    commit(clean.folder, "a change without a run")
    assert lineage_json(clean.folder, "--rev", "HEAD")["differs"] == [different]


def test_files_of_a_folder_that_the_commit_changed_are_not_listed(clean: Recorded) -> None:
    listed = {file["path"] for file in lineage_json(clean.folder, "--rev", "HEAD")["files"]}
    assert {"stages/train/__main__.py", "stages/awq/schemes.py"} <= listed
    path = clean.folder / "stages" / "train" / "plan.py"
    path.write_text(path.read_text(encoding="utf-8") + "# without a run\n", encoding="utf-8")
    metric = clean.folder / "metrics" / "train.json"
    metric.write_text(metric.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    commit(clean.folder, "other code")
    found = lineage_json(clean.folder, "--rev", "HEAD")
    assert found["differs"] == ["metrics/train.json", "stages/train"]
    left = {file["path"] for file in found["files"]}
    assert left == {path for path in listed if not path.startswith("stages/train/")}
