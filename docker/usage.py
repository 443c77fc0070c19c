"""Usage: run a command in a container, and note in LOG_FOLDER what it took: from outside it cannot be seen."""

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

SIGNALS = (signal.SIGINT, signal.SIGTERM)
READY = ".ready"  # in LOG_FOLDER: from then on no signal is lost


def main() -> int:
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    folder = Path(os.environ["LOG_FOLDER"])
    (folder / READY).touch()
    try:
        process = subprocess.Popen(sys.argv[1:], preexec_fn=listen)
    except OSError as error:
        sys.exit(f"docker/run: {sys.argv[1]}: {error.strerror}")
    for number in SIGNALS:
        signal.signal(number, lambda number, _: process.send_signal(number))
    listen()
    code = process.wait()
    (folder / "usage.json").write_text(json.dumps(measured()), encoding="utf-8")
    return 128 - code if code < 0 else code


def listen() -> None:
    """Let signals through."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def measured() -> dict[str, float]:
    """Give what ended children took."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    unit = 1 if sys.platform == "darwin" else 1024
    return {"cpu_seconds": round(usage.ru_utime + usage.ru_stime, 2), "peak_memory_bytes": usage.ru_maxrss * unit}


if __name__ == "__main__":
    sys.exit(main())
