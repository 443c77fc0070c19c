"""Progress: a bar with the time left around each loop that may take more than a moment.

On a terminal it is a bar, as wide as the terminal. Elsewhere docker/run writes a line of it now and then; a command
that runs without docker/run, into a file or a pipe, shows nothing. A loop of less than two seconds shows none, too.
"""

import os
import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

DELAY = 2  # seconds


def track(items: Iterable[Any] | None, name: str, unit: str, total: int | None = None, **options: Any) -> "tqdm[Any]":
    """Wrap what a loop goes through.

    Args:
        items: what is gone through; None where the caller updates the bar.
        name: of the work, in front of the bar.
        unit: what is counted, in the singular.
        total: number of items; None where `items` tells.
        options: further arguments of tqdm.
    """
    seen = sys.stderr.isatty() or "LOG_FOLDER" in os.environ  # docker/run sets it
    bar = {"desc": name, "unit": unit, "total": total, "delay": DELAY, "dynamic_ncols": True, "disable": not seen}
    return tqdm(items, **bar | options)
