"""Console: run a command with its output on our stdout and in a file; signals reach it, and a terminal stays one."""

import ctypes
import fcntl
import os
import pty
import signal
import subprocess
import sys
import termios
import threading
import time
from pathlib import Path

import usage

SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)


def tee(command: list[str], environment: dict[str, str], log: Path, container: str = "") -> int:
    """Run a command.

    Args:
        command: the command line.
        environment: all of its variables.
        log: file that gets what is shown.
        container: the name of the one that the command runs in, if any. Then Ctrl-C on the terminal reaches us
            alone, and we hand it on; else it reaches both.

    Returns:
        Its exit code; 128 and more where a signal ended it.
    """
    log.with_name(usage.READY).unlink(missing_ok=True)
    reader, writer = pseudo_terminal() if sys.stdout.isatty() else os.pipe()
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # what comes meanwhile waits until we can hand it on
    try:
        process = subprocess.Popen(
            command,
            env=environment,
            stdout=writer,
            stderr=writer,
            start_new_session=bool(container),
            preexec_fn=end_with_us if container else listen,
        )
    except OSError as error:
        sys.exit(f"docker/run: {command[0]}: {error.strerror}")
    os.close(writer)
    hand_on(process, container, log.with_name(usage.READY))
    listen()
    copy(reader, log)
    code = process.wait()
    return 128 - code if code < 0 else code


def pseudo_terminal() -> tuple[int, int]:
    """Open one as wide as ours."""
    reader, writer = pty.openpty()
    size = fcntl.ioctl(sys.stdout.fileno(), termios.TIOCGWINSZ, b"\0" * 8)
    fcntl.ioctl(writer, termios.TIOCSWINSZ, size)
    attributes = termios.tcgetattr(writer)
    attributes[1] &= ~termios.OPOST  # ours already makes \r\n of \n
    termios.tcsetattr(writer, termios.TCSANOW, attributes)
    return reader, writer


def listen() -> None:
    """Let signals through again."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def end_with_us() -> None:
    """Have Linux send SIGTERM to this process when docker/run is killed: no container outlives it."""
    listen()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def hand_on(process: subprocess.Popen[bytes], container: str, ready: Path) -> None:
    """Pass signals on to the command; we stay to log how it ends."""
    if not container:
        signal.signal(signal.SIGTERM, lambda number, _: process.send_signal(number))
        signal.signal(signal.SIGINT, lambda *_: None)  # the terminal has sent it to both
        return

    def send(number: int, _: object) -> None:
        wanted = signal.SIGTERM if number == signal.SIGHUP else number
        threading.Thread(target=deliver, args=(process, container, ready, wanted), daemon=True).start()

    for number in SIGNALS:
        signal.signal(number, send)


def deliver(process: subprocess.Popen[bytes], container: str, ready: Path, number: int) -> None:
    """Send a signal to a container once docker/usage.py is up in it: before, the client and init would lose it."""
    line = ["docker", "kill", "--signal", str(int(number)), container]
    while process.poll() is None:
        sent = ready.exists() and subprocess.run(line, capture_output=True, start_new_session=True, check=False)
        if sent and not sent.returncode:
            return
        time.sleep(0.1)


def copy(reader: int, log: Path) -> None:
    """Copy what comes, as it comes, until there is no more."""
    with log.open("wb") as file:
        while chunk := read(reader):
            file.write(chunk)
            file.flush()
            sys.stdout.buffer.write(chunk)
            sys.stdout.buffer.flush()


def read(descriptor: int) -> bytes:
    """Read what is there; a closed pseudo-terminal is an error on Linux and end of file elsewhere."""
    try:
        return os.read(descriptor, 65536)
    except OSError:
        return b""
