"""supervisord: keeps the programs of a server without containers running, and restarts each one that dies.

If a program fails again and again, or supervisord itself ends, all programs end.
"""

import configparser
import fcntl
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import IO, NamedTuple

import click

from stages.eval import guard, vllm_server
from stages.eval.server_variables import SYSTEM, inherited
from tools import stop
from tools.common.endpoints import HOME, LOGS
from tools.serve.params import ServeParams

CONFIG = HOME / "supervisord.conf"
GUARD = HOME / "guard.py"
KEPT_LOGS = 3
SETTLED_SECONDS = 300  # a program that lives longer counts as started
STOP_SECONDS = 20  # vLLM ignores SIGTERM while it loads
# Ends supervisord, and with it every program, when a program has failed too often.
END = (
    "import os, signal, sys; print('READY', flush=True); sys.stdin.readline(); os.kill(os.getppid(), signal.SIGTERM)"
)


class Program(NamedTuple):
    """A program to keep running.

    Args:
        variables: its whole environment.
        sockets: the files that it listens on, which stay behind when it is killed.
        folder: the folder that it runs in; None: the checkout.
        alone: whether it runs without a network, see stages/eval/guard.py.
        doors: ports of its own loopback interface, each with the socket that it leads to.
    """

    name: str
    command: list[str]
    variables: dict[str, str]
    sockets: tuple[Path, ...] = ()
    folder: Path | None = None
    alone: bool = False
    doors: Mapping[int, Path] = MappingProxyType({})


def start(programs: list[Program], params: ServeParams) -> "subprocess.Popen[bytes]":
    """Start supervisord with the programs, and hold a lock in .scratch/running, by which `make stop` finds it.

    Args:
        programs: what to run; supervisord itself gets none of their variables.
        params: how often a program is restarted, and the size of a log.

    Raises:
        click.ClickException: logs or configuration cannot be written.
    """
    try:
        _write(programs, params)
    except OSError as error:
        raise click.ClickException(
            f"{error.filename or HOME}: cannot be written ({error.strerror}); correct that and run `make serve` again"
        ) from None
    command = [str(HOME.absolute() / "webui" / "bin" / "supervisord"), "--configuration", str(CONFIG)]
    lock = _lock()
    process = subprocess.Popen(
        command,
        env=inherited(*SYSTEM),
        umask=0o027,  # of logs too
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=[lock.fileno()],
        start_new_session=True,
    )
    Path(lock.name).rename(stop.FOLDER / str(process.pid))
    lock.close()  # supervisord holds it now
    return process


def end(process: "subprocess.Popen[bytes]") -> None:
    """End all programs, and wait until they have ended."""
    process.terminate()
    process.wait()


def find_error() -> str:
    """Return the log of the program that failed too often, with its last error, as far as the logs show it."""
    log = LOGS / "supervisord.log"
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
    failed = re.findall(r"gave up: (\S+) entered FATAL", "\n".join(lines))
    path = LOGS / f"{failed[-1]}.log" if failed else log
    return f"{path}: {vllm_server.last_error(path)}" if failed and path.exists() else f"see {log}"


def _write(programs: list[Program], params: ServeParams) -> None:
    """Write the files that supervisord reads."""
    LOGS.mkdir(parents=True, exist_ok=True)
    HOME.chmod(0o700)  # sockets, chats, variables
    GUARD.write_text(Path(guard.__file__).read_text(encoding="utf-8"), encoding="utf-8")  # it stays as it is now
    for program in programs:
        path = _variables(program)
        path.parent.mkdir(exist_ok=True)
        path.unlink(missing_ok=True)
        path.touch(0o600)
        path.write_text(json.dumps(program.variables), encoding="utf-8")
    with CONFIG.open("w", encoding="utf-8") as file:
        _configuration(programs, params).write(file)


def _lock() -> IO[str]:
    """Make the lock file that tells `make stop` what runs; supervisord inherits the lock, which ends with it."""
    stop.FOLDER.mkdir(parents=True, exist_ok=True)
    file = (HOME / "running").open("w", encoding="utf-8")
    fcntl.flock(file, fcntl.LOCK_EX)
    file.write("serve")
    file.flush()
    return file


def _configuration(programs: list[Program], params: ServeParams) -> configparser.RawConfigParser:
    """Return supervisord's configuration."""
    found = configparser.RawConfigParser()
    size = {"logfile_maxbytes": f"{params.log_megabytes}MB", "logfile_backups": KEPT_LOGS}
    own = {"nodaemon": "true", "silent": "true", "logfile": LOGS.absolute() / "supervisord.log"}
    found["supervisord"] = _escaped(own | size | {"pidfile": HOME.absolute() / "supervisord.pid"})
    for program in programs:
        found[f"program:{program.name}"] = _escaped(
            {
                "command": shlex.join(_guarded(program)),
                "directory": program.folder or Path.cwd(),
                "autorestart": "true",
                "startsecs": SETTLED_SECONDS,
                "startretries": params.retries,
                "stopwaitsecs": STOP_SECONDS,
                "killasgroup": "true",
                "redirect_stderr": "true",
                "stdout_logfile": LOGS.absolute() / f"{program.name}.log",
                **{f"stdout_{name}": value for name, value in size.items()},
            }
        )
    ending = {"command": shlex.join([sys.executable, "-c", END]), "events": "PROCESS_STATE_FATAL"}
    found["eventlistener:end"] = _escaped(ending | {"stderr_logfile": "NONE", "stdout_logfile": "NONE"})
    return found


def _guarded(program: Program) -> list[str]:
    """Return a command that ends whenever supervisord ends."""
    options = ["--variables", str(_variables(program).absolute())]
    options += [word for path in program.sockets for word in ("--remove", str(path))]
    options += ["--alone"] if program.alone else []
    options += [word for port, path in program.doors.items() for word in ("--door", f"{port}={path}")]
    return [sys.executable, str(GUARD.absolute()), *options, "--", *program.command]


def _variables(program: Program) -> Path:
    """Return the file of a program's environment, which holds its secrets: a command line would show them."""
    return HOME / "variables" / f"{program.name}.json"


def _escaped(section: Mapping[str, object]) -> dict[str, str]:
    return {name: str(value).replace("%", "%%") for name, value in section.items()}
