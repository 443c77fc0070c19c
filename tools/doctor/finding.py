"""Finding: what one check found, and the command that mends it."""

from typing import NamedTuple

OK, WARN, FIX = "ok", "warn", "fix"


class Finding(NamedTuple):
    """What a check found.

    Attributes:
        status: OK, WARN (some uses are hit) or FIX.
        text: what is so.
        command: what to do; empty where nothing is to be done.
    """

    status: str
    text: str
    command: str = ""
