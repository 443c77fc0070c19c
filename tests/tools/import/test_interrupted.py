"""Imports that are interrupted or killed, or that DVC refuses, leave everything as it was."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import zc.lockfile  # type: ignore[import-untyped]
from import_project import ENVIRONMENT, ROWS, Web, command, run, tree

pytestmark = pytest.mark.slow  # git and DVC run as processes


def interrupt(folder: Path, arguments: list[str], ready: Callable[[], bool]) -> tuple[int, str]:
    """Press Ctrl-C in an import once `ready`, and return its exit code and messages."""
    line = [sys.executable, "-m", "tools.import", *arguments]
    process = subprocess.Popen(
        line,
        cwd=folder,
        env=ENVIRONMENT,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
        # In a shell's background SIGINT is ignored, and a child would inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    for _ in range(600):
        if ready():
            break
        time.sleep(0.05)
    else:
        process.kill()
        pytest.fail(f"not ready in half a minute: {process.communicate()[1]}")
    os.killpg(process.pid, signal.SIGINT)
    return process.wait(60), process.communicate()[1]


def test_an_import_that_dvc_refuses_leaves_everything_as_it_was(
    project: Path, source: Path, fail: Callable[..., str]
) -> None:
    before = tree(project)
    message = fail(command, source, "--name", "own.jsonl", "--force")
    assert message.startswith("dvc add: output 'data/raw/own.jsonl' is already tracked by SCM (e.g. Git).\n")
    assert tree(project) == before
    shutil.rmtree(project / ".dvc")
    message = fail(command, source)
    assert message.startswith("dvc add: you are not inside of a DVC repository")
    assert tree(project) == before


def test_ctrl_c_during_the_download_leaves_nothing(project: Path, web: Web) -> None:
    before = tree(project)
    web.answers["/rows.jsonl"] = (200, {"Content-Length": str(2 * len(ROWS))}, ROWS)
    web.broken.clear()
    building = project / "data/raw/.rows.jsonl.building/rows.jsonl"
    assert interrupt(project, [f"{web.address}/rows.jsonl"], building.exists) == (1, "\nAborted!\n")
    web.broken.set()
    assert tree(project) == before
    assert not building.parent.exists()


@pytest.mark.parametrize("existing", [False, True])
def test_ctrl_c_while_dvc_works_restores_everything(
    project: Path, source: Path, succeed: Callable[..., str], existing: bool
) -> None:
    if existing:
        succeed(command, source)
        source.write_bytes(ROWS + ROWS)
    before = tree(project)
    target = project / "data/raw/rows.jsonl"
    lock = zc.lockfile.LockFile(str(project / ".dvc/tmp/lock"))  # for which `dvc add` waits
    try:
        assert interrupt(
            project,
            [str(source), "--force"],
            lambda: target.exists() and target.read_bytes() == source.read_bytes(),
        ) == (1, "\nAborted!\n")
    finally:
        lock.close()
    assert tree(project) == before


def test_the_rest_of_a_killed_import_is_not_data_and_is_removed(
    project: Path, source: Path, succeed: Callable[..., str], fail: Callable[..., str]
) -> None:
    left = project / "data/raw/.rows.jsonl.building"
    left.mkdir()
    (left / "rows.jsonl").write_bytes(b"half")
    assert "up to date" in run(project, "dvc status")
    assert run(project, "git status --porcelain") == ""
    succeed(command, source)
    assert not left.exists()
    file = project / "data/rows.jsonl.dvc"
    whole = file.read_bytes()
    file.write_bytes(b"".join(line for line in whole.splitlines(True) if not line.startswith(b"  md5: ")))
    assert fail(command, source).startswith("data/raw/rows.jsonl: exists, with no record of its source; ")
    succeed(command, source, "--force")
    assert file.read_bytes() == whole
