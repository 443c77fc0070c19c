"""The messages of `make lineage`, each in full once."""

from pathlib import Path

import pytest
from recorded import Recorded, commit, run
from stage_runs import fail_in

from tools.lineage import __main__ as lineage

pytestmark = pytest.mark.slow  # DVC records the runs
MD5 = "6d1c5ef917866963b767375fcbc96f5c"  # of "nobody's"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rev", "no-such"], "no-such: no commit here has this name; name a hash, tag or branch"),
        (
            ["--model", "awk"],
            "awk: no model there; MODEL is one of base, adapter, merged, awq, or the path of a model folder, and "
            "`dvc pull` fetches HEAD's",
        ),
        (["--file", "x"], "x: no such file"),
        (["--file", "models"], "models: no such file; MODEL takes a folder"),
        (["--file", "x", "--model", "awq"], "--model, --name, --file: more than one of them; use one"),
        (["--name", "gpt"], "gpt: not the name of a served model, such as lockstep-awq-1a2b3c4d"),
        (
            ["--name", "lockstep-awq-00000000"],
            "lockstep-awq-00000000: no commit here has a model with this hash; was `make repro` committed?",
        ),
        (
            ["--name", "lockstep-awq-00000000-unproven"],
            "lockstep-awq-00000000-unproven: no commit here has a model with this hash; it was served with FORCE=1",
        ),
        (["--file", ".git/x.bin"], f".git/x.bin: md5 {MD5}: no commit here has it; was `make repro` committed?"),
        (
            ["--file", ".git/x.bin", "--rev", "main"],
            f".git/x.bin: md5 {MD5}: not of main; without REV every commit is searched",
        ),
    ],
)
def test_a_wrong_option_is_one_line(repository: Recorded, arguments: list[str], message: str) -> None:
    (repository.folder / ".git" / "x.bin").write_text("nobody's")
    assert fail_in(repository.folder, lineage.main, *arguments) == message


def test_a_shallow_clone_is_told_how_to_get_older_commits(repository: Recorded, tmp_path: Path) -> None:
    (tmp_path / "x.bin").write_text("nobody's")
    run(tmp_path, "git", "clone", "--quiet", "--depth", "1", f"file://{repository.folder}", "shallow")
    message = fail_in(tmp_path / "shallow", lineage.main, "--file", tmp_path / "x.bin")
    assert message.endswith(": no commit here has it; `git fetch --unshallow` fetches older ones")


def test_a_model_that_changed_since_is_of_no_commit(clean: Recorded) -> None:
    (clean.folder / "models" / "awq" / "config.json").write_text("{}")
    assert fail_in(clean.folder, lineage.main, "--model", "awq").startswith("models/awq: md5 ")


def test_before_the_first_run_is_committed_it_says_what_to_do(tmp_path: Path) -> None:
    run(tmp_path, "git", "init", "--quiet")
    (tmp_path / "README.md").write_text("nothing yet\n")
    commit(tmp_path, "start")
    assert fail_in(tmp_path, lineage.main) == "dvc.lock: not committed at HEAD; run `make repro` and commit"


def test_a_lock_with_marks_of_a_merge_is_one_line(clean: Recorded) -> None:
    lock = clean.folder / "dvc.lock"
    lock.write_text(f"<<<<<<< HEAD\n{lock.read_text(encoding='utf-8')}=======\n", encoding="utf-8")
    commit(clean.folder, "merged in haste")
    assert fail_in(clean.folder, lineage.main) == (
        "dvc.lock: not readable in this commit; was a merge left half done? fix the file and commit"
    )


def test_a_commit_of_two_runs_gets_no_bill(clean: Recorded) -> None:
    metric = clean.folder / "metrics" / "merge.json"
    metric.write_text(metric.read_text(encoding="utf-8").replace("0", "1"), encoding="utf-8")
    tampered = commit(clean.folder, "a nicer figure")
    assert fail_in(clean.folder, lineage.main, "--format", "cyclonedx") == (
        f"{tampered}: metrics/merge.json: not what its dvc.lock says; run `make repro` and commit everything that it "
        "changes"
    )
