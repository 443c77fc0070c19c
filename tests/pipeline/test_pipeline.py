"""The whole pipeline under DVC, in a scratch repository with small settings: what runs and what does not."""

import contextlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from checkouts import put_defaults
from ruamel.yaml import YAML

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SMALL = {
    "base.tiny.num_hidden_layers": 1,
    "base.tiny.steps": 2,
    "preprocess.calibration_rows": 8,
    "train.sft.max_steps": 2,
    "train.batch_size": 8,
    "merge.rows": 8,
    "awq.samples": 8,
    "eval.rows": 8,
    "eval.max_new_tokens": 4,
    "eval.tasks": [],
}


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A git repository with the working tree's files, small settings, and the pipeline run once and committed."""
    folder = tmp_path_factory.mktemp("pipeline")
    tracked = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.run(tracked, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines():
        if (ROOT / name).exists() and not name.startswith(("metrics/", "dvc.lock", "tests/")):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    put_defaults(folder)
    rows = (folder / "data/raw/skills.jsonl").read_text(encoding="utf-8").splitlines()[:120]
    (folder / "data/raw/skills.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    for key, value in SMALL.items():
        change(folder, key, value)
    for command in ("init -q", "add -A", "commit -qm start"):
        git(folder, *command.split())
    assert stages(dvc(folder, "repro")) == [
        *("base", "preprocess", "train", "merge", "awq", "eval@base", "eval@merged", "eval@awq", "compare", "report")
    ]
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "run")
    return folder


@pytest.fixture
def workspace(repository: Path) -> Iterator[Path]:
    """The repository, brought back to its commit afterwards."""
    yield repository
    git(repository, "checkout", "-q", "--", ".")
    dvc(repository, "checkout", "-q", "--force")


# Commits, DVC's own among them, need a name, and a machine that builds this may have none set.
WHO = {f"GIT_{role}_{part}": "test" for role in ("AUTHOR", "COMMITTER") for part in ("NAME", "EMAIL")}
ENVIRONMENT = {name: value for name, value in os.environ.items() if name not in ("RUN", "DVC_ROOT")} | WHO


def git(folder: Path, *arguments: str) -> str:
    command = ["git", *arguments]
    return subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, check=True).stdout


def dvc(folder: Path, *arguments: str, timeout: float | None = None) -> str:
    command = ["dvc", *arguments]
    done = subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def stages(output: str) -> list[str]:
    """Stages that DVC really ran."""
    return re.findall(r"^Running stage '(.*)':$", output, re.MULTILINE)


def change(folder: Path, key: str, value: Any) -> None:
    """Set one dotted key of params.yaml."""
    yaml = YAML()
    document = yaml.load(folder / "params.yaml")
    *parents, last = key.split(".")
    section = document
    for parent in parents:
        section = section[parent]
    section[last] = value
    yaml.dump(document, folder / "params.yaml")


def test_a_second_run_does_nothing_and_says_so(workspace: Path) -> None:
    output = dvc(workspace, "repro")
    assert stages(output) == []
    assert "Data and pipelines are up to date." in output
    assert git(workspace, "status", "--porcelain") == ""


def traces(workspace: Path) -> list[tuple[str, str]]:
    """Find what differs between machines or runs in the tracked outs: file and word."""
    commits = git(workspace, "log", "--format=%H").split()
    words = [str(workspace), os.uname().nodename, "seconds", "runtime", "samples_per", *commits]
    files = [*(workspace / "metrics").rglob("*"), *(workspace / "models").rglob("*.json"), workspace / "dvc.lock"]
    texts = {file: file.read_text(encoding="utf-8") for file in files if file.is_file()}
    return [(file.name, word) for file, text in texts.items() for word in words if word in text]


def test_tracked_outs_hold_no_time_host_path_or_commit(workspace: Path) -> None:
    assert traces(workspace) == []
    host = os.uname().nodename
    (workspace / "metrics" / "train.json").write_text(json.dumps({"trained_on": host}), encoding="utf-8")
    assert traces(workspace) == [("train.json", host)]


def test_an_awq_setting_reruns_awq_its_scores_and_report_and_back_again_nothing(workspace: Path) -> None:
    lock = (workspace / "dvc.lock").read_bytes()
    before = json.loads((workspace / "metrics/awq.json").read_text())
    change(workspace, "awq.group_size", 32)
    assert stages(dvc(workspace, "repro")) == ["awq", "eval@awq", "compare", "report"]
    assert json.loads((workspace / "metrics/awq.json").read_text())["size_bytes"] > before["size_bytes"]
    git(workspace, "checkout", "-q", "--", "params.yaml")
    assert stages(dvc(workspace, "repro")) == []
    assert (workspace / "dvc.lock").read_bytes() == lock


def test_an_untracked_setting_reruns_nothing(workspace: Path) -> None:
    change(workspace, "train.machine.device_batch_size", 4)
    assert stages(dvc(workspace, "repro")) == []


def test_changed_code_is_stale_in_every_stage_that_imports_it(workspace: Path) -> None:
    chat = workspace / "stages/common/chat.py"
    chat.write_text(chat.read_text(encoding="utf-8") + "# changed\n", encoding="utf-8")
    stale = json.loads(dvc(workspace, "status", "--json"))
    users = {"base", "preprocess", "eval@base", "eval@merged", "eval@awq"}
    assert {name for name, why in stale.items() if "stages/common/chat.py" in str(why)} == users


def test_experiments_run_in_the_workspace_in_a_copy_and_from_the_queue(workspace: Path) -> None:
    dvc(workspace, "exp", "run", "--name", "here", "-S", "train.lora.r=4", "train")
    adapter = json.loads((workspace / "models/adapter/adapter_config.json").read_text())
    assert adapter["r"] == 4
    git(workspace, "checkout", "-q", "--", ".")
    dvc(workspace, "checkout", "-q", "--force")
    dvc(workspace, "exp", "run", "--name", "copy", "--temp", "-S", "train.lora.r=6", "train")
    assert json.loads((workspace / "models/adapter/adapter_config.json").read_text())["r"] == 16
    dvc(workspace, "exp", "run", "--queue", "-S", "preprocess.seed=1,2", "preprocess")
    # The worker of DVC's queue may read a message that is not yet written, die, and be waited for without end.
    for _ in range(3):
        with contextlib.suppress(subprocess.TimeoutExpired):
            dvc(workspace, "exp", "run", "--run-all", timeout=120)
            break
    table = json.loads(dvc(workspace, "exp", "show", "--json"))
    (commit,) = [row for row in table if row["rev"] != "workspace"]
    found = [experiment["revs"][0] for experiment in commit["experiments"]]
    params = [one["data"]["params"]["params.yaml"]["data"] for one in found]
    assert {one["train"]["lora"]["r"] for one in params} == {4, 6, 16}
    assert {one["preprocess"]["seed"] for one in params} == {7, 1, 2}
    assert {"here", "copy"} <= {one["name"] for one in found}


def test_push_and_pull_restore_a_wiped_cache(workspace: Path) -> None:
    dvc(workspace, "push", "-q")
    shutil.rmtree(workspace / ".dvc/cache")
    shutil.rmtree(workspace / "models")
    shutil.rmtree(workspace / "data/prepared")
    dvc(workspace, "pull", "-q")
    assert stages(dvc(workspace, "repro")) == []


def test_a_failing_stage_keeps_what_was_there(workspace: Path) -> None:
    rows = workspace / "data/raw/skills.jsonl"
    rows.write_text(rows.read_text(encoding="utf-8") + "{not json\n", encoding="utf-8")
    done = subprocess.run(["dvc", "repro"], cwd=workspace, capture_output=True, text=True)
    assert done.returncode == 255
    assert "Error: data/raw/skills.jsonl:121: not JSON" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    git(workspace, "checkout", "-q", "--", ".")
    dvc(workspace, "checkout", "-q", "--force")
    assert stages(dvc(workspace, "repro")) == []
    assert git(workspace, "status", "--porcelain") == ""


def test_gate_names_the_gate_and_lineage_and_card_the_commit(workspace: Path) -> None:
    commit = git(workspace, "rev-parse", "HEAD").strip()

    def tool(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = ["python", "-m", *arguments]
        return subprocess.run(command, cwd=workspace, env=ENVIRONMENT, capture_output=True, text=True)

    gate = tool("tools.gate")
    assert gate.returncode == 1
    assert "train_eval_loss: see " in gate.stderr
    lineage = tool("tools.lineage", "--model", "awq", "--format", "json")
    assert lineage.stderr == ""  # nothing in the commit or the workspace is of another run
    found = json.loads(lineage.stdout)
    assert (found["commit"]["hash"], found["artefact"]["places"]) == (commit, ["models/awq"])
    card = tool("tools.card")
    assert card.returncode == 0, card.stderr
    assert f"`{commit}`" in card.stdout
