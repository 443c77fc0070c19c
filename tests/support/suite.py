"""How the suite runs: which tests are slow, which worker runs which file, what was skipped, and what workers share.

`make test` runs the suite in two processes of pytest-xdist. A file runs in one of them from its first to its last
test, so that the fixtures of a module are made once. The tests that own something of the machine (containers, served
models, browser) all run in one process.
"""

import fcntl
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

Once = Callable[[str, Callable[[Path], Any]], Any]

processes: list[str] = []  # command lines that started since the test began

# The first to start, as they take longest: what owns something of the machine, then files of several minutes.
MACHINE = ("tests/docker/", "tests/browser/", "tests/serve/")
LONG = ("tests/pipeline/test_pipeline.py", "tests/train/test_resume.py")
# Fixtures that make every test slow that asks for one of them.
SLOW = {"engine", "served", "supervisord", "repository"}


def scope(nodeid: str) -> str:
    """Return what runs in one process: the name of a file, or `machine`."""
    return "machine" if nodeid.startswith(MACHINE) else nodeid.partition("::")[0]


class ByFile(LoadScopeScheduling):
    def _split_scope(self, nodeid: str) -> str:
        return scope(nodeid)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByFile:
    config.option.loadscopereorder = False
    return ByFile(config, log)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if SLOW & set(getattr(item, "fixturenames", ())):
            item.add_marker("slow")
    items.sort(key=lambda item: (scope(item.nodeid) != "machine", not item.nodeid.startswith(LONG)))


def note_process(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "subprocess.Popen":
        command = arguments[1]
        processes.append(command if isinstance(command, str) else " ".join(map(str, command[:3])))


sys.addaudithook(note_process)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol() -> Generator[None, object, object]:
    processes.clear()
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef[Any]) -> Generator[None, object, object]:
    """Leave out what a shared fixture starts, such as `git` for a repository of the session."""
    before = processes.copy()
    made = yield
    if fixturedef.scope != "function":
        processes[:] = before
    return made


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Fail a test that starts a process and is not marked slow: `make test-fast` would run it."""
    result = yield
    if processes and not item.get_closest_marker("slow"):
        pytest.fail(f"starts a process ({processes[0]}): mark it with @pytest.mark.slow", pytrace=False)
    return result


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Once:
    """Make something once in a session, whichever worker asks first: `once("adapter", make)`.

    `make` gets a folder that all workers share. What it returns goes to every worker, through JSON.
    """
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent

    def once(name: str, make: Callable[[Path], Any]) -> Any:
        done = folder / f"{name}.json"
        with (folder / f"{name}.lock").open("w", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not done.exists():
                done.write_text(json.dumps(make(folder)), encoding="utf-8")
        return json.loads(done.read_text(encoding="utf-8"))

    return once


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> Generator[None, None, None]:
    """Print one line per reason for which tests were skipped, as the last lines of the output."""
    yield
    reports = [report.longrepr for report in terminalreporter.stats.get("skipped", [])]
    reasons = Counter(report[2].removeprefix("Skipped: ") for report in reports)
    for reason, number in reasons.most_common():
        terminalreporter.write_line(f"{number} skipped: {reason}")
