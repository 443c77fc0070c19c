"""supervisord: keeps the programs of a server without containers running, and restarts each one that dies.

If a program fails again and again, or supervisord itself ends, all programs end.
"""

import configparser
import fcntl
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import IO, NamedTuple

import click

from stages.eval import vllm_server
from tools import stop
from tools.common.endpoints import HOME, LOGS
from tools.serve.params import ServeParams

CONFIG = HOME / "supervisord.conf"
KEPT_LOGS = 3
SETTLED_SECONDS = 300  # a program that lives longer counts as started
STOP_SECONDS = 20  # vLLM ignores SIGTERM while it loads
# Ends supervisord, and with it every program, when a program has failed too often.
END = (
    "import os, signal, sys; print('READY', flush=True); sys.stdin.readline(); os.kill(os.getppid(), signal.SIGTERM)"
)


class Program(NamedTuple):
    """A program to keep running; `socket` is the file that it listens on, which stays behind when it is killed."""

    name: str
    command: list[str]
    socket: Path | None = None


def start(programs: list[Program], variables: dict[str, str], params: ServeParams) -> "subprocess.Popen[bytes]":
    """Start supervisord with the programs, and hold a lock in .scratch/running, by which `make stop` finds it.

    Args:
        programs: the command lines.
        variables: the environment of all of them.
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
        env=variables,
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
    HOME.chmod(0o700)  # sockets, chats
    (HOME / "guard.py").write_text(vllm_server.GUARD, encoding="utf-8")
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
    """Return a command that ends whenever supervisord ends, and that removes a socket left by the last start."""
    guarded = [sys.executable, str(HOME.absolute() / "guard.py"), *program.command]
    return ["sh", "-c", 'rm -f "$0"; exec "$@"', str(program.socket), *guarded] if program.socket else guarded


def _escaped(section: Mapping[str, object]) -> dict[str, str]:
    return {name: str(value).replace("%", "%%") for name, value in section.items()}
