"""Supervision: the parts of a server without containers, each restarted when it dies, under supervisord.

When a part keeps failing, or supervisord itself goes, all of them end.
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

from stages.common import server
from tools import stop
from tools.serving.engine import ServeParams

HOME = Path(".serve")
LOGS = Path("logs/serve")
CONFIG = HOME / "supervisord.conf"
KEPT_LOGS = 3
SETTLED_SECONDS = 300  # a part that lives longer has not failed to start
STOP_SECONDS = 20  # vLLM does not hear SIGTERM while it loads
# Ends supervisord, and by that everything, once it gives a part up.
END = (
    "import os, signal, sys; print('READY', flush=True); sys.stdin.readline(); os.kill(os.getppid(), signal.SIGTERM)"
)


class Part(NamedTuple):
    """A program to keep running; `socket` is the file that it listens on, which a killed one leaves behind."""

    name: str
    command: list[str]
    socket: Path | None = None


def start(parts: list[Part], variables: dict[str, str], params: ServeParams) -> "subprocess.Popen[bytes]":
    """Start the parts, and leave a locked file that `make stop` finds them by.

    Raises:
        click.ClickException: logs or settings cannot be written.
    """
    try:
        _write(parts, params)
    except OSError as error:
        raise click.ClickException(f"{error.filename or HOME}: cannot be written ({error.strerror})") from None
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
    """End all parts, and wait until they have."""
    process.terminate()
    process.wait()


def complaint() -> str:
    """Tell what supervisord gave up, and why, as far as the logs say it."""
    log = LOGS / "supervisord.log"
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
    given_up = re.findall(r"gave up: (\S+) entered FATAL", "\n".join(lines))
    path = LOGS / f"{given_up[-1]}.log" if given_up else log
    return f"{path}: {server.complaint(path)}" if given_up and path.exists() else f"{log} says more"


def _write(parts: list[Part], params: ServeParams) -> None:
    """Write what supervisord reads."""
    LOGS.mkdir(parents=True, exist_ok=True)
    HOME.chmod(0o700)  # sockets, chats
    (HOME / "guard.py").write_text(server.GUARD, encoding="utf-8")
    with CONFIG.open("w", encoding="utf-8") as file:
        _settings(parts, params).write(file)


def _lock() -> IO[str]:
    """Make the file by which `make stop` knows who runs; its lock goes to supervisord, and ends with it."""
    stop.FOLDER.mkdir(parents=True, exist_ok=True)
    file = (HOME / "running").open("w", encoding="utf-8")
    fcntl.flock(file, fcntl.LOCK_EX)
    file.write("serve")
    file.flush()
    return file


def _settings(parts: list[Part], params: ServeParams) -> configparser.RawConfigParser:
    """Give supervisord's configuration."""
    settings = configparser.RawConfigParser()
    size = {"logfile_maxbytes": f"{params.log_megabytes}MB", "logfile_backups": KEPT_LOGS}
    own = {"nodaemon": "true", "silent": "true", "logfile": LOGS.absolute() / "supervisord.log"}
    settings["supervisord"] = _escaped(own | size | {"pidfile": HOME.absolute() / "supervisord.pid"})
    for part in parts:
        settings[f"program:{part.name}"] = _escaped(
            {
                "command": shlex.join(_guarded(part)),
                "autorestart": "true",
                "startsecs": SETTLED_SECONDS,
                "startretries": params.retries,
                "stopwaitsecs": STOP_SECONDS,
                "killasgroup": "true",
                "redirect_stderr": "true",
                "stdout_logfile": LOGS.absolute() / f"{part.name}.log",
                **{f"stdout_{name}": value for name, value in size.items()},
            }
        )
    ending = {"command": shlex.join([sys.executable, "-c", END]), "events": "PROCESS_STATE_FATAL"}
    settings["eventlistener:end"] = _escaped(ending | {"stderr_logfile": "NONE", "stdout_logfile": "NONE"})
    return settings


def _guarded(part: Part) -> list[str]:
    """Give a command that ends with supervisord, however that ends, and finds no socket left behind."""
    guarded = [sys.executable, str(HOME.absolute() / "guard.py"), *part.command]
    return ["sh", "-c", 'rm -f "$0"; exec "$@"', str(part.socket), *guarded] if part.socket else guarded


def _escaped(section: Mapping[str, object]) -> dict[str, str]:
    return {name: str(value).replace("%", "%%") for name, value in section.items()}


def is_running() -> bool:
    """Whether something is served from this checkout."""
    found = [path.read_text(encoding="utf-8") for path in stop.FOLDER.glob("*") if stop.is_held(path)]
    return "serve" in found
