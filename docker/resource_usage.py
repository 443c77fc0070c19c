"""Resource usage: run a command inside a container, and write its CPU time and memory to LOG_FOLDER.

From outside the container they cannot be measured.
"""

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

SIGNALS = (signal.SIGINT, signal.SIGTERM)
READY = ".ready"  # a file in LOG_FOLDER: once it exists, no signal is lost


def main() -> int:
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    folder = Path(os.environ["LOG_FOLDER"])
    (folder / READY).touch()
    try:
        process = subprocess.Popen(sys.argv[1:], preexec_fn=unblock_signals)
    except OSError as error:
        sys.exit(f"docker/run: {sys.argv[1]}: {error.strerror}")
    for number in SIGNALS:
        signal.signal(number, lambda number, _: process.send_signal(number))
    unblock_signals()
    code = process.wait()
    (folder / "usage.json").write_text(json.dumps(measure_children()), encoding="utf-8")
    return 128 - code if code < 0 else code


def unblock_signals() -> None:
    """Receive signals again."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def measure_children() -> dict[str, float]:
    """Return CPU time and peak memory of the child processes that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    unit = 1 if sys.platform == "darwin" else 1024
    return {"cpu_seconds": round(usage.ru_utime + usage.ru_stime, 2), "peak_memory_bytes": usage.ru_maxrss * unit}


if __name__ == "__main__":
    sys.exit(main())
