"""supervisord restarts programs, and all of them end together, however one of them or supervisord ends."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from needs import missing
from processes import alive, below, until, words
from stage_runs import DEFAULTS, succeed_in

from tools import stop
from tools.common.endpoints import LOGS, is_running
from tools.serve import supervisord
from tools.serve.params import load_serve_params
from tools.serve.supervisord import Program

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
INSTALLED = ROOT / ".serve" / "webui" / "bin" / "supervisord"

STEADY = "import time; print('started', flush=True); time.sleep(600)"
DEAF = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {STEADY}"
FAILING = "raise ValueError('no such setting')"
LISTENING = "import socket, sys, time; s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); time.sleep(600)"
# What `make serve` does after its checks, with a chat page that never answers.
STARTING = f"""
import os, signal
from pathlib import Path
from tools.common.endpoints import ServeState
from tools.serve import supervisord
from tools.serve.local import run_until_up
from tools.serve.params import load_serve_params

signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores SIGINT
params = load_serve_params(Path({str(DEFAULTS)!r}))[0]
programs = [supervisord.Program("one", [{sys.executable!r}, "-c", {STEADY!r}], {{}})]
start = lambda: supervisord.start(programs, params)
run_until_up(start, ServeState("local", "http://127.0.0.1:9", []), "key")
"""
Launch = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture(autouse=True)
def installed() -> None:
    if not INSTALLED.exists():
        missing("serving")


@pytest.fixture
def launch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Launch]:
    """Keep programs of one line running in tmp_path: `launch(one=STEADY, two=DEAF)`."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".serve").mkdir()
    (tmp_path / ".serve" / "webui").symlink_to(ROOT / ".serve" / "webui")
    started = []

    def launch(retries: int = 1, sockets: dict[str, Path] | None = None, **codes: str) -> "subprocess.Popen[bytes]":
        params = load_serve_params(DEFAULTS)[0]
        programs = []
        for name, code in codes.items():
            socket = (sockets or {}).get(name)
            own = (socket,) if socket else ()
            programs.append(Program(name, [sys.executable, "-c", code, *map(str, own)], {"OWN": name}, own))
        changed = params.model_copy(update={"retries": retries, "log_megabytes": 1})
        started.append(supervisord.start(programs, changed))
        return started[-1]

    yield launch
    for process in started:
        process.kill()
        process.wait()


def running(pid: int, code: str) -> list[int]:
    """Find the descendants of a process that run one of these programs, without their guards."""
    return [child for child in below(pid) if words(child)[1:3] == ["-c", code]]


def test_a_program_that_dies_comes_back_and_the_others_stay(launch: Launch) -> None:
    process = launch(one=STEADY, two=DEAF)
    (one,) = until(lambda: running(process.pid, STEADY))
    (two,) = until(lambda: running(process.pid, DEAF))
    os.kill(one, signal.SIGKILL)
    assert until(lambda: [pid for pid in running(process.pid, STEADY) if pid != one])
    assert running(process.pid, DEAF) == [two]


def test_a_program_that_left_its_socket_behind_comes_back(launch: Launch, tmp_path: Path) -> None:
    process = launch(one=LISTENING, sockets={"one": tmp_path / "one.sock"})
    until(lambda: (tmp_path / "one.sock").exists())
    (first,) = running(process.pid, LISTENING)
    os.kill(first, signal.SIGKILL)
    (second,) = until(lambda: [pid for pid in running(process.pid, LISTENING) if pid != first])
    time.sleep(1)
    assert alive(second)


def test_a_program_that_keeps_failing_ends_all_and_is_named_with_its_error(launch: Launch) -> None:
    process = launch(one=STEADY, two=FAILING)
    (one,) = until(lambda: running(process.pid, STEADY))
    process.wait(60)
    assert not alive(one)
    assert supervisord.find_error() == "logs/serve/two.log: ValueError: no such setting"
    assert not is_running()


def test_make_stop_ends_all_programs_also_those_that_ignore_sigterm(
    launch: Launch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisord, "STOP_SECONDS", 1)
    process = launch(one=STEADY, two=DEAF)
    (one,), (two,) = until(lambda: running(process.pid, STEADY)), until(lambda: running(process.pid, DEAF))
    assert is_running()
    assert f"serve (process {process.pid})" in succeed_in(tmp_path, stop.main)
    until(lambda: not alive(one) and not alive(two))
    assert not is_running()


def test_nothing_is_left_when_supervisord_is_killed(launch: Launch) -> None:
    process = launch(one=STEADY, two=DEAF)
    (one,), (two,) = until(lambda: running(process.pid, STEADY)), until(lambda: running(process.pid, DEAF))
    process.kill()
    until(lambda: not alive(one) and not alive(two))
    assert not is_running()


def test_a_full_log_is_rotated_and_the_last_ones_are_kept(launch: Launch) -> None:
    launch(one="import time\nfor n in range(80_000): print('x' * 99)\nprint('end', flush=True); time.sleep(600)")
    until(lambda: (log := LOGS / "one.log").exists() and log.read_text().endswith("end\n"))
    kept = {path.name: path.stat().st_size for path in LOGS.glob("one.log*")}
    assert set(kept) == {"one.log", *(f"one.log.{number}" for number in range(1, supervisord.KEPT_LOGS + 1))}
    assert max(kept.values()) < 1.1 * 2**20


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_start_that_is_interrupted_leaves_nothing(launch: Launch, number: signal.Signals) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", STARTING], env=environment, stderr=subprocess.PIPE) as process:
        (one,) = until(lambda: running(process.pid, STEADY))
        process.send_signal(number)
        process.communicate(timeout=60)
    assert process.returncode not in (0, None)
    assert not alive(one)
    assert not is_running()
