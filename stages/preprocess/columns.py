"""Columns: the names under which each format is read, which columns of a file they are, and what is left unread.

A column of ours may have other names in a file: names that people use (COLUMNS), with capitals or blanks, or the
names that preprocess.files gives. Columns that nobody reads are counted, so that none is lost in silence.
"""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from stages.preprocess.row_values import DropRow, is_empty

# For each format our columns, and the names under which files have them. The first that a file has is read.
REQUIRED_COLUMNS: dict[str, dict[str, tuple[str, ...]]] = {
    "messages": {"messages": ("messages", "dialogue", "dialog", "chat")},
    "sharegpt": {"conversations": ("conversations", "conversation")},
    "alpaca": {"instruction": ("instruction",), "output": ("output", "response", "answer", "completion", "target")},
    "prompt_completion": {
        "prompt": ("prompt", "question", "query", "problem", "human", "user"),
        "completion": ("completion", "response", "answer", "output", "solution", "assistant", "target"),
    },
    "text": {"text": ("text", "content")},
}
_SYSTEM = ("system", "system_prompt", "system_message")
_TOOLS = ("tools", "functions")
_INPUT = ("input", "context")
OPTIONAL_COLUMNS: dict[str, dict[str, tuple[str, ...]]] = {
    "messages": {"system": _SYSTEM, "tools": _TOOLS},
    "sharegpt": {"system": _SYSTEM, "tools": _TOOLS},
    "alpaca": {"input": _INPUT, "system": _SYSTEM, "history": ("history",)},
    "prompt_completion": {"input": _INPUT, "system": _SYSTEM, "tools": _TOOLS, "history": ("history",)},
    "text": {},
}
# Names that are not read as such, and from which a message guesses what to write into preprocess.files.
GUESSED = {
    "prompt": (
        "frage",
        "anfrage",
        "instruction",
        "pregunta",
        "domanda",
        "pergunta",
        "vraag",
        "pytanie",
        "q",
        "вопрос",
        "问题",
        "質問",
    ),
    "completion": (
        "antwort",
        "reply",
        "réponse",
        "reponse",
        "respuesta",
        "risposta",
        "resposta",
        "antwoord",
        "odpowiedź",
        "a",
        "ответ",
        "回答",
    ),
}
NOT_TEXT = ("", "id", "index", "nr", "no", "number", "date", "timestamp")
NUMBERS = (bool, int, float, Decimal)
# Columns of what a text model cannot read. A row that has a value there is dropped, with the value as drop reason.
MEDIA = {f"{name}{ending}": name for name in ("image", "audio", "video") for ending in ("", "s")}


@dataclass
class Reading:
    """How the rows of one file are read, and what was met meanwhile.

    Attributes:
        format: a key of REQUIRED_COLUMNS.
        columns: our column to the file's.
        numbers: our columns whose numbers are read as text, because most of their values are numbers.
        unread: values that are not empty and that nothing reads, by column; keys of messages as `messages.KEY`.
        as_text: numbers that were read as text, by column.
        awaited: columns that preprocess.files names and that no row had yet.
        present: the columns of the file's first rows.
    """

    format: str
    columns: dict[str, str]
    numbers: frozenset[str] = frozenset()
    unread: Counter[str] = field(default_factory=Counter)
    as_text: Counter[str] = field(default_factory=Counter)
    awaited: set[str] = field(default_factory=set)
    present: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Collect the columns that are read."""
        self.known = frozenset(self.columns.values())

    def note(self, values: dict[str, Any]) -> None:
        """Count the columns of a row that are not read.

        Raises:
            DropRow: the row has an image, audio or video.
        """
        if self.awaited:
            self.awaited -= values.keys()
        if values.keys() <= self.known:  # most rows
            return
        for name in sorted(values.keys() - self.known):  # which kind drops the row must not depend on hashes
            if not is_empty(values[name]):
                if kind := MEDIA.get(name):
                    raise DropRow(kind, f"column {name}")
                self.unread[name] += 1

    def get(self, values: dict[str, Any], name: str) -> Any:
        """Return the value of one of our columns; None where it is missing or not a number (pandas' NaN)."""
        value = values.get(self.columns[name])
        if value is None or isinstance(value, str):
            return value
        if isinstance(value, float) and not math.isfinite(value):
            return None
        if isinstance(value, NUMBERS) and name in self.numbers:
            self.as_text[self.columns[name]] += 1
            return str(value).lower() if isinstance(value, bool) else str(value)
        return value


def detect_format(present: Iterable[str], renamed: dict[str, str]) -> str | None:
    """Return the first format whose required columns are all present, or None."""
    names = set(present)
    for name, required in REQUIRED_COLUMNS.items():
        found = match_columns(names, renamed, name).columns
        if all(found[column] in names for column in required):
            return name
    return None


def match_columns(present: Iterable[str], renamed: dict[str, str], name: str) -> Reading:
    """Find the file's name for each column of a format.

    Args:
        present: the names of the file's columns.
        renamed: our column to the file's, from preprocess.files. Only these names count for such a column.
        name: the format. A column that it has and the file lacks keeps our name.
    """
    names = sorted(present)
    simple = {simplify(column): column for column in names} | {column: column for column in names}
    found: dict[str, str] = {}
    for column, synonyms in (REQUIRED_COLUMNS[name] | OPTIONAL_COLUMNS[name]).items():
        taken = {*found.values(), *renamed.values()}
        fits = (simple[word] for word in synonyms if word in simple and simple[word] not in taken)
        found[column] = renamed.get(column) or next(fits, column)
    return Reading(name, found, present=tuple(names))


def missing_answer(present: Iterable[str], renamed: dict[str, str], wanted: str | None) -> str | None:
    """Return our name of the answer's column, where a file has the questions of a format but no answers."""
    names = set(present)
    for name in [wanted] if wanted else ("alpaca", "prompt_completion"):
        question, *answers = REQUIRED_COLUMNS[name]
        found = match_columns(names, renamed, name).columns
        if answers and found[question] in names and found[answers[0]] not in names and answers[0] not in renamed:
            return answers[0]
    return None


def guess_columns(present: Iterable[str]) -> dict[str, str]:
    """Guess which columns hold the prompt and the completion: by their names, or as the only ones left, in order.

    Args:
        present: the names of the file's columns, in their order.

    Returns:
        `prompt` and `completion` with the file's names; empty where it is not clear.
    """
    left = [name for name in present if simplify(name) not in NOT_TEXT and not simplify(name).endswith("_id")]
    found: dict[str, str] = {}
    for column, words in GUESSED.items():
        known = {*words, *REQUIRED_COLUMNS["prompt_completion"][column]}
        named = [name for name in left if simplify(name) in known]
        if len(named) == 1:
            found[column] = named[0]
    others = [name for name in left if name not in found.values()]
    missing = [column for column in GUESSED if column not in found]
    if len(others) == len(missing):
        found |= dict(zip(missing, others, strict=True))
    return found if len(found) == len(GUESSED) else {}


class Sample:
    """What the first rows of a file show, without keeping them.

    Attributes:
        first: the columns of the first row.
        values: values that are not empty, by column.
        numbers: how many of them are numbers or booleans.
    """

    def __init__(self, rows: Iterable[Any]) -> None:
        """Look at rows as they stand in the file; a row that is a list of messages has the column `messages`."""
        self.size, self.values, self.numbers = 0, Counter[str](), Counter[str]()
        self.first: list[str] = []
        present: dict[str, None] = {}
        for row in rows:
            self.size += 1
            named = {"messages": row} if isinstance(row, list) else row
            if not isinstance(named, dict):
                continue
            self.first = self.first or list(named)
            present.update(dict.fromkeys(named))
            for name, value in named.items():
                if not is_empty(value):
                    self.values[name] += 1
                    self.numbers[name] += isinstance(value, NUMBERS)
        self.present = list(present)

    def mostly_numbers(self, reading: Reading) -> frozenset[str]:
        """Return our columns in which more than half of the values are numbers or booleans."""
        columns = reading.columns.items()
        return frozenset(name for name, actual in columns if self.numbers[actual] * 2 > self.values[actual])


def simplify(name: str) -> str:
    """Return a column name in small letters, with `_` for blanks and hyphens."""
    return "_".join(name.replace("-", " ").replace("\ufeff", "").lower().split())
