"""Processes that tests look at: who lives, who is whose child, and waiting for either to change."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def until(told: Callable[[], Any], seconds: float = 60) -> Any:
    """Wait until something is true, and give it."""
    end = time.monotonic() + seconds
    while not (found := told()):
        assert time.monotonic() < end, "it never came"
        time.sleep(0.1)
    return found


def alive(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def below(pid: int) -> list[int]:
    """Give the children of a process, theirs, and so on."""
    try:
        children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []
    return [*children, *(further for child in children for further in below(child))]


def words(pid: int) -> list[str]:
    """Give the command line of a process."""
    return Path(f"/proc/{pid}/cmdline").read_bytes().decode("utf-8", "replace").split("\0")
