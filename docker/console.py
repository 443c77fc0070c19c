"""Console: run a command, and copy its output to our stdout and to a file.

The command receives our signals, and still has a terminal where we have one.
"""

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
from typing import BinaryIO

from plain_lines import PlainLines
from resource_usage import READY

SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)


def run_logged(command: list[str], environment: dict[str, str], log: Path, container: str = "") -> int:
    """Run a command.

    Args:
        command: the command line.
        environment: all of its variables.
        log: the file that receives a copy of the output.
        container: the name of the container that the command starts, if any. Then Ctrl-C on the terminal reaches
            only us, and we forward it; without a container it reaches both.

    Returns:
        Its exit code; 128 + N if signal N ended it.
    """
    log.with_name(READY).unlink(missing_ok=True)
    reader, writer = pseudo_terminal() if sys.stdout.isatty() else os.pipe()
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # signals wait until we can forward them
    try:
        process = subprocess.Popen(
            command,
            env=environment,
            stdout=writer,
            stderr=writer,
            start_new_session=bool(container),
            preexec_fn=end_with_us if container else unblock_signals,
        )
    except OSError as error:
        sys.exit(f"docker/run: {command[0]}: {error.strerror}")
    os.close(writer)
    forward_signals(process, container, log.with_name(READY))
    unblock_signals()
    copy_output(reader, log)
    code = process.wait()
    code = 128 - code if code < 0 else code
    if container and code > 124:  # the engine's client may have ended before the container
        subprocess.run(["docker", "rm", "--force", container], capture_output=True, check=False)
    return code


def pseudo_terminal() -> tuple[int, int]:
    """Open a pseudo-terminal with the size of ours.

    Returns:
        The file descriptors to read from and to write to.
    """
    reader, writer = pty.openpty()
    size = fcntl.ioctl(sys.stdout.fileno(), termios.TIOCGWINSZ, b"\0" * 8)
    fcntl.ioctl(writer, termios.TIOCSWINSZ, size)
    attributes = termios.tcgetattr(writer)
    attributes[1] &= ~termios.OPOST  # ours already turns \n into \r\n
    termios.tcsetattr(writer, termios.TCSANOW, attributes)
    return reader, writer


def unblock_signals() -> None:
    """Receive signals again."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def end_with_us() -> None:
    """Ask Linux to send SIGTERM to this process when docker/run is killed, so that no container outlives it."""
    unblock_signals()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def forward_signals(process: subprocess.Popen[bytes], container: str, ready: Path) -> None:
    """Forward signals to the command. We stay, to log how it ends."""
    if not container:
        signal.signal(signal.SIGTERM, lambda number, _: process.send_signal(number))
        signal.signal(signal.SIGINT, lambda *_: None)  # the terminal has sent it to both
        return

    def send(number: int, _: object) -> None:
        wanted = signal.SIGTERM if number == signal.SIGHUP else number
        threading.Thread(target=signal_container, args=(process, container, ready, wanted), daemon=True).start()

    for number in SIGNALS:
        signal.signal(number, send)


def signal_container(process: subprocess.Popen[bytes], container: str, ready: Path, number: int) -> None:
    """Send a signal to a container once docker/resource_usage.py runs in it; earlier signals would be lost."""
    line = ["docker", "kill", "--signal", str(int(number)), container]
    while process.poll() is None:
        sent = ready.exists() and subprocess.run(line, capture_output=True, start_new_session=True, check=False)
        if sent and not sent.returncode:
            return
        time.sleep(0.1)


def copy_output(reader: int, log: Path) -> None:
    """Copy output as it comes, until its end: whole to a terminal, in plain lines to the log and elsewhere."""
    terminal, lines = sys.stdout.isatty(), PlainLines()
    with log.open("wb") as file:
        while chunk := read(reader):
            plain = lines.add(chunk)
            write(file, plain)
            write(sys.stdout.buffer, chunk if terminal else plain)
        write(file, rest := lines.end())
        write(sys.stdout.buffer, b"" if terminal else rest)


def write(file: BinaryIO, data: bytes) -> None:
    """Write at once."""
    file.write(data)
    file.flush()


def read(descriptor: int) -> bytes:
    """Read the next bytes. On Linux a closed pseudo-terminal raises an error; elsewhere it is the end of a file."""
    try:
        return os.read(descriptor, 65536)
    except OSError:
        return b""
