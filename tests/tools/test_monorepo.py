"""The project as a folder of a larger git repository: every tool says what it says in a repository of its own."""

import contextlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from lineage_runs import notes
from recorded import ENVIRONMENT, WHO, Recorded, in_monorepo, run
from stage_runs import ROOT, succeed_in

from tools import gate
from tools.card import __main__ as card
from tools.common import repository as git
from tools.lineage import __main__ as lineage
from tools.review import __main__ as review
from tools.serve.proof import examine
from tools.trace import __main__ as trace

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def nested(repository: Recorded, tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    return in_monorepo(repository, tmp_path_factory.mktemp("monorepo"))


def without_hashes(text: str, of: Recorded) -> str:
    for name, commit in zip(("first", "words", "other"), of[1:], strict=True):
        text = text.replace(commit, name)
    return re.sub(r'"serialNumber": ".*"', "", text)  # made from the commit


@pytest.mark.parametrize("rev", ["first", "words", "other"])
@pytest.mark.parametrize("options", [[], ["--format", "json"], ["--format", "cyclonedx"]])
def test_lineage_and_card_of_a_revision(repository: Recorded, nested: Recorded, rev: str, options: list[str]) -> None:
    main = lineage.main if options else card.main
    first, second = (
        without_hashes(succeed_in(one.folder, main, "--rev", getattr(one, rev), *options), one)
        for one in (repository, nested)
    )
    assert first == second


def test_review_against_a_revision(repository: Recorded, nested: Recorded) -> None:
    texts = [succeed_in(one.folder, review.main, "--rev", one.first) for one in (repository, nested)]
    first, second = (re.sub(r"`?[0-9a-f]{8,12}(…`|\))", "", text) for text in texts)
    assert first == second


@pytest.mark.parametrize("options", [["--model", "models/base"], ["--file", "models/awq/tokenizer.json"]])
def test_lineage_of_a_model_or_a_file(repository: Recorded, nested: Recorded, options: list[str]) -> None:
    texts = [without_hashes(succeed_in(one.folder, lineage.main, *options), one) for one in (repository, nested)]
    assert texts[0] == texts[1]


def test_lineage_of_a_file_in_a_folder_that_a_stage_reads(repository: Recorded, nested: Recorded) -> None:
    name = min((repository.folder / "data" / "general").iterdir()).name
    texts = [
        without_hashes(succeed_in(one.folder, lineage.main, "--file", f"data/general/{name}"), one)
        for one in (repository, nested)
    ]
    assert texts[0] == texts[1]


def test_notes_are_of_the_project_alone(repository: Recorded, nested: Recorded) -> None:
    (nested.folder.parents[1] / "dvc.lock").write_text("stages: {}\n", encoding="utf-8")
    assert notes(nested.folder) == notes(repository.folder)


def test_a_served_name_leads_to_its_commit(nested: Recorded) -> None:
    with contextlib.chdir(nested.folder):
        old = examine("awq", nested.first)
        commit = git.recorded("HEAD")
    assert commit == nested.other  # HEAD changes other folders only
    name = old.name.removesuffix("-unproven")
    assert f"commit       {nested.first}" in succeed_in(nested.folder, lineage.main, "--name", name)


def test_serve_judges_a_revision(repository: Recorded, nested: Recorded) -> None:
    problems = []
    for one in (repository, nested):
        with contextlib.chdir(one.folder):
            problems.append([without_hashes(text, one) for text in examine("awq", one.first).problems])
    assert problems[0] == problems[1]


@pytest.mark.parametrize("rev", ["first", "other"])
def test_trace_reads_the_lock_of_the_project(repository: Recorded, nested: Recorded, rev: str) -> None:
    texts = [
        succeed_in(one.folder, trace.main, "rows.jsonl:1", "--rev", getattr(one, rev)) for one in (repository, nested)
    ]
    assert texts[0] == texts[1]
    assert "models/adapter" in texts[0]


def test_gate_and_dvc_work_in_the_folder(repository: Recorded, nested: Recorded) -> None:
    results = []
    for one in (repository, nested):
        with contextlib.chdir(one.folder):
            done = CliRunner().invoke(gate.main)
        results.append((done.exit_code, done.output))
        status = json.loads(run(one.folder, "dvc", "status", "--json"))
        results.append((0, json.dumps(status, sort_keys=True)))
    assert results[:2] == results[2:]
    assert run(nested.folder, "dvc", "root").strip() == "."


@pytest.mark.parametrize(
    ("command", "code", "message"),
    [
        ("echo same > out.txt && echo 1 > seen.txt", 0, "gives its dvc.lock byte for byte"),
        ("date +%N > out.txt && echo 1 > seen.txt", 1, "does not give its own bytes: dvc.lock changed; run"),
        ("echo same > out.txt && date +%N > seen.txt", 1, "bytes: dvc.lock, seen.txt changed; run"),
    ],
)
def test_verify_clones_the_larger_repository_and_works_in_the_folder(
    tmp_path: Path, command: str, code: int, message: str
) -> None:
    project = tmp_path / "my sub" / "lockstep"
    project.mkdir(parents=True)
    stage = (
        f"stages:\n  write:\n    cmd: {command}\n    outs: [out.txt]\n    metrics: [{{seen.txt: {{cache: false}}}}]\n"
    )
    (project / "dvc.yaml").write_text(stage, encoding="utf-8")
    run(tmp_path, "git", "init", "--quiet")
    for words in ("dvc init -q --subdir", "dvc config core.analytics false", "dvc repro -q", "git add -A ."):
        run(project, *words.split())
    run(project, "git", "commit", "--quiet", "--message", "run")
    (tmp_path / "beside.txt").write_text("not of this project\n", encoding="utf-8")
    environment = ENVIRONMENT | WHO | {"PYTHONPATH": str(ROOT)}
    verify = [sys.executable, "-m", "tools.verify"]
    done = subprocess.run(verify, cwd=project, env=environment, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    assert message in done.stdout + done.stderr
    assert "uncommitted" not in done.stderr
    (project / "more.txt").touch()
    done = subprocess.run(verify, cwd=project, env=environment, capture_output=True, text=True)
    assert "note: uncommitted changes are not verified" in done.stderr
