"""Contamination: the n-gram overlap of a row with the prompts of a benchmark, which no model may be trained on.

Word n-grams of letters and digits, without case: the test of GPT-3 (Brown et al. 2020, appendix C), with 13 words.
A prompt with fewer words counts where a user message is exactly that prompt.
"""

import re
from pathlib import Path
from typing import NamedTuple

from stages.common.chat import Row
from stages.preprocess.readers import read_rows
from stages.preprocess.row_values import strings
from stages.preprocess.sources import data_files

WORD = re.compile(r"\w+")
Words = tuple[str, ...]


class Benchmarks(NamedTuple):
    """Texts that must not be trained on: every n-gram of `size` words, and the texts with fewer words."""

    size: int
    ngrams: set[Words]
    short: set[Words]


def load_benchmarks(folder: Path, size: int) -> Benchmarks:
    """Read every text in every row of the files in `folder`.

    Args:
        folder: data files of the same types as in data/raw. It may be empty or missing.
        size: words in an n-gram.

    Raises:
        click.ClickException: a damaged file.
    """
    benchmarks = Benchmarks(size, set(), set())
    for path in data_files(folder, required=False):
        for row in read_rows(path, folder=folder):
            for text in strings(row.values, names=False):
                words = _words(text)
                if 0 < len(words) < size:
                    benchmarks.short.add(words)
                benchmarks.ngrams.update(_ngrams(words, size))
    return benchmarks


def overlaps(row: Row, spoken: str, benchmarks: Benchmarks) -> bool:
    """Whether the row shares an n-gram with a benchmark, or asks one of its short prompts.

    Args:
        row: messages or text.
        spoken: its messages without the system message, in one text.
        benchmarks: what to look for.
    """
    if not benchmarks.ngrams and not benchmarks.short:
        return False
    asked = [_words(message["content"]) for message in row.get("messages", []) if message["role"] == "user"]
    if any(words in benchmarks.short for words in asked):
        return True
    return any(ngram in benchmarks.ngrams for ngram in _ngrams(_words(spoken), benchmarks.size))


def _words(text: str) -> Words:
    return tuple(WORD.findall(text.casefold()))


def _ngrams(words: Words, size: int) -> "zip[Words]":
    return zip(*(words[start:] for start in range(size)), strict=False)
