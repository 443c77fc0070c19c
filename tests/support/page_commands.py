"""Console blocks of the pages: what a page says that a command prints is compared with what it prints.

A block is compared where the line `<!-- checked -->` stands before it. `…` in a line stands for any text, and a line
that is only `…` for any lines. The commands must be cheap, and change nothing in the checkout.
"""

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

BLOCK = re.compile(r"^<!-- checked -->\n```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Command(NamedTuple):
    """A command of a page, and the lines that the page shows below it."""

    page: Path
    line: int
    words: str
    shown: list[str]


def commands(page: Path) -> Iterator[Command]:
    """Yield the commands of the marked blocks of a page; a line that ends in a backslash goes on in the next."""
    text = page.read_text(encoding="utf-8")
    for block in BLOCK.finditer(text):
        start = text.count("\n", 0, block.start(1)) + 1
        found: list[Command] = []
        for number, line in enumerate(block[1].splitlines(), start):
            if line.startswith("$ "):
                found.append(Command(page, number, line[2:], []))
            else:
                assert found, f"{page.name}:{number}: output before the first command"
                found[-1].shown.append(line)
        yield from found


def printed(command: Command, folder: Path) -> list[str]:
    """Run a command as a terminal would, in `folder`, and give its lines."""
    clean = {
        name: value for name, value in os.environ.items() if not re.match(r"MAKE|MFLAGS|DVC_ROOT|VENV|COLUMNS", name)
    }
    environment = clean | {"PATH": f"{folder}/.venv/bin:{os.environ['PATH']}", "NO_COLOR": "1"}
    done = subprocess.run(
        ["bash", "-c", command.words],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )
    return done.stdout.splitlines()


def agrees(shown: list[str], lines: list[str]) -> bool:
    """Whether a page's lines are what was printed, apart from what `…` stands for."""
    pattern = ""
    for line in shown:
        if line.strip() == "…":
            pattern += r"(?:.*\n)*?"
        else:
            pattern += ".*".join(map(re.escape, line.rstrip().split("…"))) + r"[ ]*\n"
    return re.fullmatch(pattern, "".join(f"{line}\n" for line in lines)) is not None
