"""`make lineage`, on a git repository with runs that DVC itself recorded."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, fail_in, succeed_in
from recorded import ENVIRONMENT, Recorded, commit, record, run
from ruamel.yaml import YAML

from stages import report
from stages.common import files
from stages.common.gates import GATES
from tools import lineage


@pytest.fixture
def clean(repository: Recorded) -> Iterator[Recorded]:
    """The repository, brought back to its last commit afterwards."""
    yield repository
    run(repository.folder, "git", "checkout", "--quiet", "--force", "-B", "main", repository.other)
    shutil.rmtree(repository.folder / "models")
    shutil.copytree(repository.folder / ".git" / "models", repository.folder / "models")


def told(folder: Path, *arguments: str | Path) -> dict[str, Any]:
    return json.loads(succeed_in(folder, lineage.main, "--format", "json", *arguments))


def lock_at(folder: Path, revision: str) -> dict[str, Any]:
    return YAML(typ="safe").load(run(folder, "git", "show", f"{revision}:dvc.lock"))["stages"]


def notes(folder: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "tools.lineage", *arguments]
    environment = ENVIRONMENT | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True).stderr


def test_a_revision_tells_all_that_its_dvc_lock_and_metrics_say(repository: Recorded) -> None:
    folder = repository.folder
    found = told(folder, "--rev", repository.words)
    assert (found["commit"]["hash"], found["commit"]["subject"]) == (repository.first, "run")
    lock = lock_at(folder, repository.first)
    assert set(found["stages"]) == set(lock)
    for name, stage in lock.items():
        assert found["stages"][name]["cmd"] == stage["cmd"]
        assert found["stages"][name]["deps"] == stage["deps"]
        assert found["stages"][name]["outs"] == stage["outs"]
        assert found["stages"][name]["params"] == stage.get("params", {}).get("params.yaml", {})
    outs = {out["path"]: out["md5"] for stage in lock.values() for out in stage["outs"]}
    assert {model["path"]: model["md5"] for model in found["models"].values()}.items() <= outs.items()
    weights = {entry["path"]: entry["sha256"] for entry in found["models"]["merged"]["files"]}
    assert weights["models/merged/model.safetensors"] == files.sha256(folder / "models/merged/model.safetensors")
    (rows,) = found["data"]
    assert (rows["path"], rows["sha256"]) == ("data/raw/rows.jsonl", files.sha256(folder / "data/raw/rows.jsonl"))
    assert rows["import"] == {
        "source": "rows.jsonl", "revision": rows["sha256"], "licence": "mit", "rows": rows["rows_read"]
    }  # fmt: skip
    assert found["environment"][0]["libraries"] == ["torch==2.13.0"]
    assert found["gates"] == json.loads(run(folder, "git", "show", f"{repository.first}:metrics/gates.json"))
    assert set(report.METRICS) <= set(found["metrics"])
    assert found["metrics"]["train"] == json.loads((folder / "metrics/train.json").read_text(encoding="utf-8"))
    assert found["differs"] == []


def test_without_options_it_is_heads_run_for_people(repository: Recorded) -> None:
    text = succeed_in(repository.folder, lineage.main)
    assert text.startswith(f"commit       {repository.other}  ")
    for stage in lock_at(repository.folder, "HEAD").values():
        for out in stage["outs"]:
            assert (out["md5"] in text) != out["path"].startswith("metrics/")
    for line in text.splitlines():
        if line.startswith(("file ", "data ", "environment ")):
            digest, name = line[13:].split(",")[0].split("  ")
            assert digest == files.sha256(repository.folder / name)
    assert "data/raw/rows.jsonl, 50 rows, from rows.jsonl at " in text
    assert ", licence mit\n" in text
    verdicts = told(repository.folder, "--rev", "HEAD")["gates"]
    failed = [name for name in GATES if not verdicts[name]["passed"]]
    assert f"\ngates        {len(GATES) - len(failed)} of {len(GATES)} passed; failed: {', '.join(failed)}\n" in text
    assert notes(repository.folder) == ""


@pytest.mark.parametrize("name", ["base", "adapter", "merged", "awq"])
def test_a_model_is_found_under_its_name_and_wherever_it_was_copied(
    repository: Recorded, tmp_path: Path, name: str
) -> None:
    shutil.copytree(repository.folder / "models" / name, tmp_path / "served")
    for model in ([name] if name == "awq" else []) + [tmp_path / "served"]:
        found = told(repository.folder, "--model", model)
        assert found["commit"]["hash"] == repository.other
        assert found["artefact"]["first_commit"] == (repository.other if name == "awq" else repository.first)
        assert found["artefact"]["md5"] == found["models"][name]["md5"]
        assert found["artefact"]["places"] == [f"models/{name}"]


def test_an_older_model_is_found_at_the_commit_that_made_it(repository: Recorded, tmp_path: Path) -> None:
    shutil.copytree(repository.folder / "models" / "awq", tmp_path / "awq")
    config = tmp_path / "awq" / "config.json"
    config.write_text(config.read_text(encoding="utf-8").removesuffix("\n"), encoding="utf-8")
    assert told(repository.folder, "--model", tmp_path / "awq")["commit"]["hash"] == repository.first
    message = fail_in(repository.folder, lineage.main, "--model", tmp_path / "awq", "--rev", "main")
    assert message.endswith("not of main; without REV every commit is searched")


@pytest.mark.parametrize(
    ("name", "first", "role"),
    [
        ("models/awq/model.safetensors", "first", "written by awq"),
        ("models/awq/config.json", "other", "written by awq"),
        ("models/adapter/adapter_model.safetensors", "first", "written by train"),
        ("data/prepared/train.jsonl", "first", "written by preprocess"),
        ("data/raw/rows.jsonl", "first", "read by preprocess"),
        ("stages/train.py", "first", "read by train"),
        ("metrics/gates.json", "first", "written by report"),
    ],
)
def test_a_file_is_found_by_its_bytes_alone_and_in_a_fresh_clone(
    repository: Recorded, tmp_path: Path, name: str, first: str, role: str
) -> None:
    shutil.copy(repository.folder / name, tmp_path / "renamed.bin")
    run(tmp_path, "git", "clone", "--quiet", str(repository.folder), "clone")
    for folder in (repository.folder, tmp_path / "clone"):
        found = told(folder, "--file", tmp_path / "renamed.bin")
        assert found["commit"]["hash"] == repository.other
        assert found["artefact"]["first_commit"] == getattr(repository, first)
        assert found["artefact"]["places"][0] == name
        assert f"is           {name}, {role}\n" in succeed_in(
            folder, lineage.main, "--file", tmp_path / "renamed.bin"
        )


def test_a_file_of_many_places_has_all_of_them(repository: Recorded) -> None:
    found = told(repository.folder, "--file", "models/awq/tokenizer.json")
    assert found["artefact"]["places"] == [f"models/{name}/tokenizer.json" for name in ("base", "merged", "awq")]


def test_a_file_of_an_older_run_without_hashes_of_files_is_found_through_the_cache(clean: Recorded) -> None:
    path = clean.folder / "metrics" / "lineage.json"
    facts = json.loads(path.read_text(encoding="utf-8"))
    weights = clean.folder / "models" / "awq" / "tokenizer_config.json"
    weights.write_text(weights.read_text(encoding="utf-8") + " ", encoding="utf-8")
    path.write_text(json.dumps({key: value for key, value in facts.items() if key != "files"}), encoding="utf-8")
    old = record(clean.folder, "as before there were lists", "awq", report_too=False)
    found = told(clean.folder, "--file", weights)
    assert (found["commit"]["hash"], found["artefact"]["places"]) == (old, ["models/awq/tokenizer_config.json"])
    message = fail_in(clean.folder, lineage.main, "--file", weights, "--format", "cyclonedx")
    assert message == f"{old}: its run has no list of files in metrics/lineage.json; run `make repro` and commit"


def test_a_model_of_another_branch_is_found(clean: Recorded) -> None:
    run(clean.folder, "git", "checkout", "--quiet", "-b", "side")
    config = clean.folder / "models" / "awq" / "config.json"
    config.write_text(config.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    side = record(clean.folder, "on the side", "awq", "eval@awq")
    shutil.copytree(clean.folder / "models" / "awq", clean.folder / ".git" / "copy")
    run(clean.folder, "git", "checkout", "--quiet", "main")
    assert told(clean.folder, "--model", ".git/copy")["commit"]["hash"] == side
    run(clean.folder, "git", "merge", "--quiet", "--strategy", "ours", "-m", "merge", "side")
    run(clean.folder, "git", "branch", "--quiet", "-D", "side")
    assert told(clean.folder, "--model", ".git/copy")["commit"]["hash"] == side


def test_what_no_commit_has_is_said_in_one_line(clean: Recorded, tmp_path: Path) -> None:
    (tmp_path / "x.bin").write_text("nobody's")
    message = fail_in(clean.folder, lineage.main, "--file", tmp_path / "x.bin")
    assert message.endswith("not of any commit here; was `make repro` committed?")
    (clean.folder / "models" / "awq" / "config.json").write_text("{}")
    assert "models/awq: md5 " in fail_in(clean.folder, lineage.main, "--model", "awq")
    run(tmp_path, "git", "clone", "--quiet", "--depth", "1", f"file://{clean.folder}", "shallow")
    message = fail_in(tmp_path / "shallow", lineage.main, "--file", tmp_path / "x.bin")
    assert message.endswith("not of any commit here; `git fetch --unshallow` brings older ones")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rev", "no-such"], "git log: fatal: bad revision 'no-such'"),
        (["--rev=--all"], "git log: fatal: bad revision '--all'"),
        (["--model", "awk"], "awk: no model there; MODEL is one of base, adapter, merged, awq, or the path of"),
        (["--file", "models"], "models: no such file; MODEL takes a folder"),
        (["--file", "x", "--model", "awq"], "--model, --name and --file: one at a time"),
    ],
)
def test_a_wrong_option_is_one_line(repository: Recorded, arguments: list[str], message: str) -> None:
    assert fail_in(repository.folder, lineage.main, *arguments).startswith(message)


def test_before_the_first_run_is_committed_it_says_what_to_do(tmp_path: Path) -> None:
    run(tmp_path, "git", "init", "--quiet")
    (tmp_path / "README.md").write_text("nothing yet\n")
    commit(tmp_path, "start")
    assert fail_in(tmp_path, lineage.main) == "dvc.lock: not committed at HEAD; run `make repro` and commit"


def test_a_stale_workspace_is_said(clean: Recorded) -> None:
    metric = clean.folder / "metrics" / "awq.json"
    metric.write_text(metric.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    said = notes(clean.folder)
    assert "note: the workspace holds another run, which is not committed" in said
    assert "note: the workspace is not what its dvc.lock says, in awq, report; `dvc status` says more\n" in said
    assert notes(clean.folder, "--rev", "HEAD") == ""


def test_a_commit_of_two_runs_is_no_run(clean: Recorded) -> None:
    metric = clean.folder / "metrics" / "merge.json"
    metric.write_text(metric.read_text(encoding="utf-8").replace("0", "1"), encoding="utf-8")
    tampered = commit(clean.folder, "a nicer figure")
    assert told(clean.folder, "--rev", "HEAD")["differs"] == ["metrics/merge.json"]
    assert f"note: not what dvc.lock at {tampered} says: metrics/merge.json\n" in notes(clean.folder)
    message = fail_in(clean.folder, lineage.main, "--format", "cyclonedx")
    assert message.startswith(f"{tampered}: metrics/merge.json: not what dvc.lock there says; run `make repro`")


def test_hashes_of_another_model_or_of_other_rows_are_no_run(clean: Recorded) -> None:
    facts = clean.folder / "metrics" / "lineage.json"
    listed = json.loads(facts.read_text(encoding="utf-8"))
    listed["files"][-1]["md5"] = "0" * 32
    facts.write_text(json.dumps(listed), encoding="utf-8")
    record(clean.folder, "a forged list", report_too=False)
    assert told(clean.folder, "--rev", "HEAD")["differs"] == ["models/awq"]
    imported = clean.folder / "data" / "rows.jsonl.dvc"
    imported.write_text(imported.read_text(encoding="utf-8").replace("md5: ", "md5: f"), encoding="utf-8")
    commit(clean.folder, "other rows")
    different = ["data/raw", "data/raw/rows.jsonl", "models/awq"]
    assert told(clean.folder, "--rev", "HEAD")["differs"] == different


@pytest.mark.parametrize(
    ("name", "old", "new", "different"),
    [
        ("stages/train.py", "def main", "def  main", "stages/train.py"),
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
    assert told(clean.folder, "--rev", "HEAD")["differs"] == [different]


def test_a_lock_that_cannot_be_read_is_one_line(clean: Recorded) -> None:
    lock = clean.folder / "dvc.lock"
    lock.write_text(f"<<<<<<< HEAD\n{lock.read_text(encoding='utf-8')}=======\n", encoding="utf-8")
    commit(clean.folder, "merged in haste")
    message = "dvc.lock: cannot be read as it was committed; was a merge left half done?"
    assert fail_in(clean.folder, lineage.main) == message


def test_a_licence_may_be_mended_after_the_run(clean: Recorded) -> None:
    record = clean.folder / "data" / "rows.jsonl.dvc"
    record.write_text(record.read_text(encoding="utf-8").replace("mit", "apache-2.0"), encoding="utf-8")
    mended = commit(clean.folder, "the right licence")
    found = told(clean.folder, "--rev", "HEAD")
    assert (found["commit"]["hash"], found["differs"]) == (mended, [])
    assert found["data"][0]["import"]["licence"] == "apache-2.0"
    assert told(clean.folder, "--model", "awq")["commit"]["hash"] == clean.other
