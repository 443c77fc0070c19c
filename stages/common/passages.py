"""Passages: runs of words that a row shares with the prompts of a benchmark, which a model must not be trained on.

Word n-grams of letters and digits, without case: the test for contamination of GPT-3 (Brown et al. 2020, appendix C),
with 13 words. A shorter prompt counts where a user's message says exactly that.
"""

import re
from pathlib import Path
from typing import NamedTuple

from stages.common import checks, raw
from stages.common.conversation import Row

WORD = re.compile(r"\w+")
Words = tuple[str, ...]


class Passages(NamedTuple):
    """What must not be trained on: every run of `size` words, and the texts that have fewer."""

    size: int
    runs: set[Words]
    short: set[Words]


def load(folder: Path, size: int) -> Passages:
    """Read the passages of every file in `folder`: any text in any row counts.

    Args:
        folder: data files as in data/raw; none is needed.
        size: words in a passage.

    Raises:
        click.ClickException: a broken file.
    """
    passages = Passages(size, set(), set())
    for path in raw.paths(folder, needed=False):
        for row in raw.rows(path):
            for text in checks.strings(row.values, names=False):
                words = _words(text)
                if 0 < len(words) < size:
                    passages.short.add(words)
                passages.runs.update(_runs(words, size))
    return passages


def shared(row: Row, passages: Passages) -> bool:
    """Whether the row holds one of the passages."""
    if not passages.runs and not passages.short:
        return False
    asked = [_words(message["content"]) for message in row.get("messages", []) if message["role"] == "user"]
    if any(words in passages.short for words in asked):
        return True
    return any(run in passages.runs for run in _runs(_words(checks.said(row)), passages.size))


def _words(text: str) -> Words:
    return tuple(WORD.findall(text.casefold()))


def _runs(words: Words, size: int) -> "zip[Words]":
    return zip(*(words[start:] for start in range(size)), strict=False)
