"""`make verify`: a rebuild in an empty clone, and when it refuses."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from stage_runs import ROOT

pytestmark = pytest.mark.slow  # DVC runs small pipelines


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "code", "message"),
    [
        ("echo same > out.txt", 0, "gives its dvc.lock byte for byte"),
        ("date +%N > out.txt", 1, "does not give its own bytes: dvc.lock changed; run `make repro` and commit"),
        ("false", 1, "the pipeline failed in the clone; see its message above"),
    ],
)
def test_it_rebuilds_in_an_empty_clone_and_compares(tmp_path: Path, command: str, code: int, message: str) -> None:
    first = "echo same > out.txt" if command == "false" else command
    stage = "stages:\n  write:\n    cmd: {}\n    deps: [dep.txt]\n    outs: [out.txt]\n"
    (tmp_path / "dep.txt").write_text("dep\n")
    (tmp_path / "dvc.yaml").write_text(stage.format(first))
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "GIT_AUTHOR_NAME": "test",
        "GIT_AUTHOR_EMAIL": "t@example.com",
    }
    environment |= {"GIT_COMMITTER_NAME": "test", "GIT_COMMITTER_EMAIL": "t@example.com"}
    for line in ("git init -q", "dvc init -q", "dvc repro -q"):
        subprocess.run(line.split(), cwd=tmp_path, env=environment, check=True)
    (tmp_path / "dvc.yaml").write_text(stage.format(command))
    subprocess.run("git add -A && git commit -qm run", shell=True, cwd=tmp_path, env=environment, check=True)
    verify = [sys.executable, "-m", "tools.verify"]
    done = subprocess.run(verify, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == code
    assert message in done.stdout + done.stderr
    assert ("write: out.txt: " in done.stderr) == ("date" in command)


def test_it_copies_imported_rows(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    environment |= {
        f"GIT_{role}_{part}": "t@example.com" for role in ("AUTHOR", "COMMITTER") for part in ("NAME", "EMAIL")
    }
    (tmp_path / "data" / "raw").mkdir(parents=True)
    rows = tmp_path / "data" / "raw" / "rows.jsonl"
    (tmp_path / "rows.jsonl").write_text('{"text": "one"}\n', encoding="utf-8")
    stage = "stages:\n  count:\n    cmd: wc -l < data/raw/rows.jsonl > out\n    deps: [data/raw]\n    outs: [out]\n"
    (tmp_path / "dvc.yaml").write_text(stage, encoding="utf-8")
    (tmp_path / ".dvcignore").write_text("/data/raw/.gitignore\n", encoding="utf-8")
    imported = f"{sys.executable} -m tools.import rows.jsonl --licence mit"
    for line in ("git init -q", "dvc init -q", imported, "dvc repro -q", "git add -A", "git commit -qm run"):
        subprocess.run(line.split(), cwd=tmp_path, env=environment, check=True, capture_output=True)

    def verify() -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "tools.verify"]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)

    assert "verified" in verify().stdout
    rows.unlink()
    assert verify().stderr.endswith("Error: data/raw/rows.jsonl: no such file; run `dvc pull` first\n")
    rows.write_text('{"text": "two"}\n', encoding="utf-8")
    message = "Error: data/raw/rows.jsonl: not the rows of data/rows.jsonl.dvc; run `dvc checkout` first\n"
    assert verify().stderr.endswith(message)
