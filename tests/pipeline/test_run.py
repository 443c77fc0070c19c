"""docker/run: the environment it sets, what it logs, and how a stage ends."""

import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from needs import missing

pytestmark = pytest.mark.slow

RUN = Path(__file__).parents[2] / "docker" / "run"


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    """An environment whose logs land in tmp_path and whose python is this one."""
    clean = {name: value for name, value in os.environ.items() if name != "RUN"}
    return clean | {"DVC_ROOT": str(tmp_path), "RUNTIME": "local", "VENV": sys.prefix}


def run(home: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([RUN, *arguments], env=home, capture_output=True, text=True)


def facts(folder: Path, name: str) -> dict[str, Any]:
    latest = (folder / "logs" / "latest.txt").read_text(encoding="utf-8").strip()
    return json.loads((folder / "logs" / latest / name / "runtime.json").read_text(encoding="utf-8"))


def console(folder: Path, name: str) -> str:
    latest = (folder / "logs" / "latest.txt").read_text(encoding="utf-8").strip()
    return (folder / "logs" / latest / name / "console.log").read_text(encoding="utf-8")


def test_output_is_shown_and_logged(home: dict[str, str], tmp_path: Path) -> None:
    code = "import sys; print('out', flush=True); print('err', file=sys.stderr)"
    done = run(home, "--name", "train", "python", "-c", code)
    assert done.returncode == 0
    assert done.stdout == "out\nerr\n" == console(tmp_path, "train")
    assert facts(tmp_path, "train")["exit_code"] == 0
    assert facts(tmp_path, "train")["peak_memory_bytes"] > 1_000_000


def test_the_name_is_the_module(home: dict[str, str], tmp_path: Path) -> None:
    run(home, "python", "-m", "stages.report", "--help")
    assert "gates" in console(tmp_path, "report")


def test_the_exit_code_is_kept(home: dict[str, str], tmp_path: Path) -> None:
    assert run(home, "--name", "x", "python", "-c", "raise SystemExit(7)").returncode == 7
    assert facts(tmp_path, "x")["exit_code"] == 7
    assert run(home, "--name", "y", "python", "-c", "import os; os.kill(os.getpid(), 9)").returncode == 128 + 9


def test_sigterm_reaches_the_stage_and_its_end_is_logged(home: dict[str, str], tmp_path: Path) -> None:
    code = (
        "import signal, sys\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit('ended cleanly'))\n"
        "print('ready', flush=True)\n"
        "signal.pause()"
    )
    process = subprocess.Popen(
        [RUN, "--name", "train", "python", "-c", code], env=home, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=60)[0] == "ended cleanly\n"
    assert process.returncode == 1
    assert console(tmp_path, "train").endswith("ended cleanly\n")


def test_a_terminal_stays_a_terminal(home: dict[str, str], tmp_path: Path) -> None:
    code = "import os, sys; print(sys.stdout.isatty(), os.get_terminal_size().columns)"
    ours, theirs = pty.openpty()
    subprocess.run(["stty", "cols", "97"], stdin=theirs, check=True)
    subprocess.run([RUN, "--name", "x", "python", "-c", code], env=home, stdout=theirs, check=True)
    os.close(theirs)
    assert b"True 97" in os.read(ours, 1000)
    assert "True 97" in console(tmp_path, "x")


def test_stages_of_one_repro_share_a_run_and_the_next_repro_has_its_own(home: dict[str, str], tmp_path: Path) -> None:
    script = f"{RUN} --name a true && {RUN} --name b true"
    subprocess.run(["sh", "-c", script], env=home, check=True, start_new_session=True)
    (first,) = [path.name for path in (tmp_path / "logs").iterdir() if path.is_dir()]
    assert {path.name for path in (tmp_path / "logs" / first).iterdir() if path.is_dir()} == {"a", "b"}
    run(home | {"RUN": "second"}, "--name", "a", "true")
    assert (tmp_path / "logs" / "latest.txt").read_text() == "second\n"
    assert (tmp_path / "logs" / "second" / "a" / "console.log").exists()


def test_determinism_settings_reach_the_stage_and_win(home: dict[str, str]) -> None:
    code = "import os; print(os.environ['MKL_CBWR'], os.environ['OMP_NUM_THREADS'], os.environ['HF_HUB_OFFLINE'])"
    assert run(home | {"OMP_NUM_THREADS": "9"}, "--no-log", "python", "-c", code).stdout == "COMPATIBLE 2 1\n"
    assert run(home, "--no-log", "--name", "base", "python", "-c", code).stdout == "COMPATIBLE 2 0\n"


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"RUNTIME": "podman"}, "docker/run: RUNTIME=podman: must be local or docker\n"),
        ({"VENV": "/nowhere"}, "docker/run: no environment in /nowhere; run `make install` first\n"),
    ],
)
def test_what_cannot_run_says_what_to_do(home: dict[str, str], environment: dict[str, str], message: str) -> None:
    done = run(home | environment, "python", "-m", "stages.train")
    assert done.returncode == 1
    assert done.stderr == message


def test_an_unknown_program_is_one_line(home: dict[str, str]) -> None:
    done = run(home, "no-such-program")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "docker/run: no-such-program: No such file or directory"


def test_the_runtime_is_said_once_a_run_with_the_reason(home: dict[str, str]) -> None:
    script = f"{RUN} --name a true && {RUN} --name b true"
    done = subprocess.run(
        ["sh", "-c", script], env=home, capture_output=True, text=True, check=True, start_new_session=True
    )
    assert done.stderr == "docker/run: local: RUNTIME in the environment\n"


def test_without_a_gpu_stages_run_on_the_machine(home: dict[str, str]) -> None:
    if Path("/dev/nvidiactl").exists():
        missing("no gpu")
    del home["RUNTIME"]
    code = "import os; print(os.environ['RUNTIME'], os.environ['RUNTIME_REASON'])"
    done = run(home, "--name", "x", "python", "-c", code)
    assert done.stdout == "local no NVIDIA GPU here; RUNTIME=docker asks for containers\n"


def test_without_an_engine_containers_are_refused_in_a_line(home: dict[str, str], tmp_path: Path) -> None:
    nowhere = {"RUNTIME": "docker", "DOCKER_HOST": f"unix://{tmp_path}/none", "PATH": "/usr/bin:/bin"}
    done = run(home | nowhere, "python", "-m", "stages.train")
    assert done.returncode == 1
    assert done.stderr.startswith("docker/run: ")
    assert len(done.stderr.splitlines()) == 1
    (tmp_path / "env").symlink_to("/usr/bin/env")
    (tmp_path / "python3").symlink_to(sys.executable)
    done = run(home | nowhere | {"PATH": str(tmp_path)}, "python", "-m", "stages.train")
    assert (
        done.stderr == "docker/run: RUNTIME=docker, but there is no `docker` command; RUNTIME=local works without\n"
    )


def test_it_needs_nothing_but_the_standard_library_and_loads_little_of_it(home: dict[str, str]) -> None:
    code = f"import runpy, sys; sys.argv = ['run', '--no-log', 'true']; sys.path.insert(0, {str(RUN.parent)!r})"
    code += "; import os; os.execvpe = lambda *_: sys.exit(','.join(sys.modules)); "
    code += f"runpy.run_path({str(RUN)!r}, run_name='__main__')"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], env=home, capture_output=True, text=True)
    loaded = set(done.stderr.strip().split(","))
    assert {"runtime", "log_folder", "console"} <= loaded
    assert not {"container", "image"} & loaded
