"""Processes in tests: which ones run, which are whose children, and waiting until that changes."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def until(check: Callable[[], Any], seconds: float = 60) -> Any:
    """Wait until a check returns something true, and return that."""
    end = time.monotonic() + seconds
    while not (found := check()):
        assert time.monotonic() < end, f"not true within {seconds:.0f} s"
        time.sleep(0.1)
    return found


def alive(pid: int) -> bool:
    """Whether a process exists and is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def below(pid: int) -> list[int]:
    """List the descendants of a process."""
    try:
        children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []
    return [*children, *(further for child in children for further in below(child))]


def words(pid: int) -> list[str]:
    """Return the command line of a process."""
    return Path(f"/proc/{pid}/cmdline").read_bytes().decode("utf-8", "replace").split("\0")
