"""CI of a user's project: the steps of the workflow and of the GitLab job, really run, each in a clone of its own.

A pull request changes one setting of awq. The clone of each job has no models and no cache; DVC's remote is a folder.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from comment_service import JOB, CommentService, comment_service
from recorded import ENVIRONMENT, Recorded, commit, run
from ruamel.yaml import YAML
from stage_runs import ROOT

WORKFLOW: dict[str, Any] = YAML(typ="safe").load(ROOT / ".github" / "workflows" / "model.yml")
STEPS: list[dict[str, Any]] = WORKFLOW["jobs"]["model"]["steps"]
GITLAB: dict[str, Any] = YAML(typ="safe").load(ROOT / ".gitlab-ci.yml")["model"]
OWN = "github.event.pull_request.head.repo.full_name == github.repository"
# What GitHub puts in place of each expression, in a pull request from a branch of the same repository.
EXPRESSIONS = {
    OWN: "true",
    "github.token": JOB,
    "secrets.AWS_ACCESS_KEY_ID": "",
    "secrets.AWS_SECRET_ACCESS_KEY": "",
    "secrets.HF_TOKEN": "",
}
CONDITIONS = {None: True, "always()": True, "env.OWN == 'true'": True, "vars.DVC_PLUGIN != ''": False}
OURS = ("DVC_ROOT", "RUN", "MAKEFLAGS", "MAKELEVEL", "MFLAGS", "WORKERS")
SETTING, OTHER = "awq.group_size", 64


@dataclass
class Done:
    """A step that has run."""

    name: str
    code: int
    output: str


@pytest.fixture(scope="module")
def service() -> Iterator[CommentService]:
    with comment_service() as service:
        yield service


@pytest.fixture(scope="module")
def origin(repository: Recorded, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with a run on main, its bytes in a DVC remote, and a branch `change` with another setting."""
    folder = tmp_path_factory.mktemp("ci")
    origin = shutil.copytree(repository.folder, folder / "origin", symlinks=True)
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, origin)
    for name in ("docker", "tools"):
        shutil.copytree(ROOT / name, origin / name, ignore=shutil.ignore_patterns("__pycache__"))
    run(origin, "dvc", "remote", "add", "--default", "store", str(folder / "store"))
    commit(origin, "tools")
    run(origin, "dvc", "push", "--quiet")
    run(origin, "git", "checkout", "--quiet", "-b", "change")
    params = YAML()
    document = params.load(origin / "params.yaml")
    document["awq"]["group_size"] = OTHER
    params.dump(document, origin / "params.yaml")
    commit(origin, "another group size")
    return origin


def clone(origin: Path, name: str) -> Path:
    """Check out the branch as a job does, in an empty folder."""
    folder = origin.with_name(name)
    run(origin.parent, "git", "clone", "--quiet", "--branch", "change", str(origin), str(folder))
    for path in ("pyproject.toml", "requirements/pipeline.txt"):  # older than the environment, which is complete
        os.utime(folder / path, (0, 0))
    return folder


def execute(folder: Path, name: str, script: str, variables: dict[str, str]) -> Done:
    """Run a script as GitHub's default shell does."""
    clean = {key: value for key, value in ENVIRONMENT.items() if key not in OURS}
    environment = clean | {"VENV": os.environ.get("VENV", sys.prefix), "RUNTIME": "local"} | variables
    done = subprocess.run(["bash", "-e", "-c", script], cwd=folder, env=environment, capture_output=True, text=True)
    return Done(name, done.returncode, done.stdout + done.stderr)


def filled_in(values: dict[str, str]) -> dict[str, str]:
    return {
        name: re.sub(r"\$\{\{ (.+?) \}\}", lambda found: EXPRESSIONS[found[1]], value)
        for name, value in values.items()
    }


@pytest.fixture(scope="module")
def github(origin: Path, service: CommentService) -> tuple[Path, list[Done]]:
    """The clone of a job of the workflow, and its steps, up to the first that failed."""
    folder = clone(origin, "github")
    given = service.github() | {
        "GITHUB_BASE_REF": "main",
        "GITHUB_STEP_SUMMARY": str(folder / ".summary"),
        "CI": "true",
    }
    del given["GITHUB_TOKEN"]  # a step that needs it says so
    given |= filled_in(WORKFLOW["jobs"]["model"]["env"])
    done: list[Done] = []
    for step in STEPS:
        if "run" in step and CONDITIONS[step.get("if")]:
            done.append(execute(folder, step["name"], step["run"], given | filled_in(step.get("env", {}))))
            if done[-1].code:
                break
    return folder, done


@pytest.mark.slow
def test_every_step_of_the_workflow_runs(github: tuple[Path, list[Done]], service: CommentService) -> None:
    folder, done = github
    codes = {step.name: step.code for step in done}
    # A model of two layers and a few steps passes few gates.
    names = ["Install", "Pull", "Build", "Push", "Review", "Comment", "Page", "Gates"]
    assert [(name, bool(codes[name])) for name in codes] == [(name, name == "Gates") for name in names], done[
        -1
    ].output
    ran = re.findall(
        r"^Running stage '(.*)':$", next(one.output for one in done if one.name == "Build"), re.MULTILINE
    )
    assert ran == ["awq", "eval@awq", "compare", "report"]
    review = (folder / "review.md").read_text(encoding="utf-8")
    assert f"| `{SETTING}` | `32` | `{OTHER}` |" in review
    assert "would run again" not in review
    assert "intervals are of the " in review  # main's answers are at hand
    assert (folder / ".summary").read_text(encoding="utf-8") == review
    assert [one["body"] for one in service.comments] == [review], done[-2].output
    assert "FAILED" in done[-1].output


@pytest.mark.slow
def test_the_gitlab_job_runs_nothing_once_the_branch_has_the_run(
    origin: Path, github: tuple[Path, list[Done]], service: CommentService
) -> None:
    """The author takes dvc.lock and metrics from what the job uploads; the models are in DVC's remote."""
    (uploaded,) = (step["with"]["path"].split() for step in STEPS if "upload-artifact" in step.get("uses", ""))
    assert {"dvc.lock", "metrics"} <= set(uploaded)
    assert uploaded == [path.removesuffix("/") for path in GITLAB["artifacts"]["paths"]]
    folder = clone(origin, "gitlab")
    shutil.copy(github[0] / "dvc.lock", folder)
    shutil.copytree(github[0] / "metrics", folder / "metrics", dirs_exist_ok=True)
    base = run(origin, "git", "merge-base", "main", "change").strip()
    given = service.gitlab() | {"CI_MERGE_REQUEST_DIFF_BASE_SHA": base, "DVC_PLUGIN": "", "CI": "true"}
    service.comments.clear()
    *script, gate = GITLAB["script"]
    done = execute(folder, "script", "\n".join(script), given)
    assert done.code == 0, done.output
    assert re.findall(r"^Running stage", done.output, re.MULTILINE) == []
    assert (folder / "models/awq/model.safetensors").exists()
    assert (folder / "dvc.lock").read_bytes() == (github[0] / "dvc.lock").read_bytes()
    (review,) = (one["body"] for one in service.comments)
    assert review == (folder / "review.md").read_text(encoding="utf-8")
    assert f"| `{SETTING}` | `32` | `{OTHER}` |" in review
    assert gate == "make gate"


def test_a_fork_gets_no_secret_and_no_machine_of_the_users() -> None:
    guarded = {step["run"] for step in STEPS if step.get("if") == "env.OWN == 'true'"}
    assert guarded == {"make pull", "make push", "make comment FILE=review.md"}
    assert WORKFLOW["jobs"]["model"]["env"]["OWN"] == f"${{{{ {OWN} }}}}"
    assert f"(vars.MODEL_RUNNER == '' || {OWN})" in WORKFLOW["jobs"]["model"]["if"]
    assert WORKFLOW["permissions"] == {"contents": "read", "pull-requests": "write"}
    assert "pull_request_target" not in WORKFLOW["on"]


def test_both_do_nothing_until_they_are_switched_on_and_start_at_the_same_changes() -> None:
    assert WORKFLOW["jobs"]["model"]["if"].startswith("vars.MODEL_CI == 'on'")
    (rule,) = GITLAB["rules"]
    assert rule["if"].startswith('$MODEL_CI == "on" && ')
    paths = WORKFLOW["on"]["pull_request"]["paths"]
    assert [path.replace("**/*", "**") for path in rule["changes"]] == paths
    for path in paths:
        assert (ROOT / path.removesuffix("/**")).exists(), path


@pytest.mark.parametrize(
    ("schema", "files"),
    [("vendor.github-workflows", ".github/workflows/*.yml"), ("vendor.gitlab-ci", ".gitlab-ci.yml")],
)
@pytest.mark.slow
def test_the_files_are_what_the_schemas_of_github_and_gitlab_ask_for(schema: str, files: str) -> None:
    paths = [str(path) for path in ROOT.glob(files)]
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, *paths]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
