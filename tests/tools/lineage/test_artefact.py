"""A file or model is found by its bytes alone, at the commit whose run read or wrote it."""

import json
import shutil
from pathlib import Path

import pytest
from lineage_runs import lineage_json
from recorded import Recorded, commit, record, run
from stage_runs import fail_in, succeed_in

from tools.lineage import __main__ as lineage

pytestmark = pytest.mark.slow  # DVC records the runs


@pytest.mark.parametrize("name", ["base", "adapter", "merged", "awq"])
def test_a_model_is_found_by_its_name_and_as_a_copy(repository: Recorded, tmp_path: Path, name: str) -> None:
    shutil.copytree(repository.folder / "models" / name, tmp_path / "served")
    for model in ([name] if name == "awq" else []) + [tmp_path / "served"]:
        found = lineage_json(repository.folder, "--model", model)
        assert found["commit"]["hash"] == repository.other
        assert found["artefact"]["first_commit"] == (repository.other if name == "awq" else repository.first)
        assert found["artefact"]["md5"] == found["models"][name]["md5"]
        assert found["artefact"]["places"] == [f"models/{name}"]


def test_an_older_model_is_found_at_the_commit_that_made_it(repository: Recorded, tmp_path: Path) -> None:
    shutil.copytree(repository.folder / "models" / "awq", tmp_path / "awq")
    config = tmp_path / "awq" / "config.json"
    config.write_text(config.read_text(encoding="utf-8").removesuffix("\n"), encoding="utf-8")
    assert lineage_json(repository.folder, "--model", tmp_path / "awq")["commit"]["hash"] == repository.first
    message = fail_in(repository.folder, lineage.main, "--model", tmp_path / "awq", "--rev", "main")
    assert "not of main" in message


@pytest.mark.parametrize(
    ("name", "first", "role"),
    [
        ("models/awq/model.safetensors", "first", "written by awq"),
        ("models/awq/config.json", "other", "written by awq"),
        ("models/adapter/adapter_model.safetensors", "first", "written by train"),
        ("data/prepared/train.jsonl", "first", "written by preprocess"),
        ("data/raw/rows.jsonl", "first", "read by preprocess"),
        ("stages/train/__main__.py", "first", "read by train"),
        ("metrics/gates.json", "first", "written by report"),
    ],
)
def test_a_file_is_found_by_its_bytes_alone_and_in_a_fresh_clone(
    repository: Recorded, tmp_path: Path, name: str, first: str, role: str
) -> None:
    shutil.copy(repository.folder / name, tmp_path / "renamed.bin")
    run(tmp_path, "git", "clone", "--quiet", str(repository.folder), "clone")
    for folder in (repository.folder, tmp_path / "clone"):
        found = lineage_json(folder, "--file", tmp_path / "renamed.bin")
        assert found["commit"]["hash"] == repository.other
        assert found["artefact"]["first_commit"] == getattr(repository, first)
        assert found["artefact"]["places"][0] == name
        assert f"is           {name}, {role}\n" in succeed_in(
            folder, lineage.main, "--file", tmp_path / "renamed.bin"
        )


def test_a_file_in_several_places_lists_them_all(repository: Recorded) -> None:
    found = lineage_json(repository.folder, "--file", "models/awq/tokenizer.json")
    assert found["artefact"]["places"] == [f"models/{name}/tokenizer.json" for name in ("base", "merged", "awq")]


def test_a_file_of_an_older_run_without_hashes_of_files_is_found_through_the_cache(clean: Recorded) -> None:
    path = clean.folder / "metrics" / "lineage.json"
    facts = json.loads(path.read_text(encoding="utf-8"))
    weights = clean.folder / "models" / "awq" / "tokenizer_config.json"
    weights.write_text(weights.read_text(encoding="utf-8") + " ", encoding="utf-8")
    path.write_text(json.dumps({key: value for key, value in facts.items() if key != "files"}), encoding="utf-8")
    old = record(clean.folder, "as before there were lists", "awq", report_too=False)
    found = lineage_json(clean.folder, "--file", weights)
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
    assert lineage_json(clean.folder, "--model", ".git/copy")["commit"]["hash"] == side
    run(clean.folder, "git", "merge", "--quiet", "--strategy", "ours", "-m", "merge", "side")
    run(clean.folder, "git", "branch", "--quiet", "-D", "side")
    assert lineage_json(clean.folder, "--model", ".git/copy")["commit"]["hash"] == side


def test_code_of_an_older_run_is_found_at_the_commit_of_that_run(clean: Recorded, tmp_path: Path) -> None:
    """dvc.lock has the hash of the folder alone; git has the file."""
    code = clean.folder / "stages" / "train" / "plan.py"
    shutil.copy(code, tmp_path / "before.py")
    code.write_text(code.read_text(encoding="utf-8") + "# later\n", encoding="utf-8")
    later = record(clean.folder, "other code, the same bytes", "train")
    for file, newest, first in ((tmp_path / "before.py", clean.other, clean.first), (code, later, later)):
        found = lineage_json(clean.folder, "--file", file)
        assert (found["commit"]["hash"], found["artefact"]["first_commit"]) == (newest, first)
        assert found["artefact"]["places"] == ["stages/train/plan.py"]


def test_code_that_no_run_read_is_of_no_commit(clean: Recorded) -> None:
    code = clean.folder / "stages" / "train" / "plan.py"
    code.write_text(code.read_text(encoding="utf-8") + "# without a run\n", encoding="utf-8")
    metric = clean.folder / "metrics" / "train.json"
    metric.write_text(metric.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    commit(clean.folder, "other code and a metric by hand")
    assert "no commit here has it" in fail_in(clean.folder, lineage.main, "--file", code)
    assert "no commit here has it" in fail_in(clean.folder, lineage.main, "--file", clean.folder / "README.md")


def test_code_that_moved_from_a_file_dep_into_a_folder_is_found_at_the_newest_commit(clean: Recorded) -> None:
    """As when a module of stages/common moves to its only user."""
    lock = clean.folder / "dvc.lock"
    code = clean.folder / "stages" / "train" / "plan.py"
    md5 = lineage_json(clean.folder, "--file", code)["artefact"]["md5"]
    text = lock.read_text(encoding="utf-8")
    folder, file = (f"    - path: stages/{name}\n      hash: md5\n" for name in ("train", "plan.py"))
    assert folder in text
    lock.write_text(text.replace(folder, f"{file}      md5: {md5}\n      size: 1\n{folder}"), encoding="utf-8")
    commit(clean.folder, "as a file dep")
    lock.write_text(text + "\n", encoding="utf-8")
    newest = commit(clean.folder, "as part of a folder again")
    found = lineage_json(clean.folder, "--file", code)
    assert (found["commit"]["hash"], found["artefact"]["places"]) == (newest, ["stages/train/plan.py"])
