"""Rows of another trainer's settings: how preprocess reads them, and the commands that import them."""

import re
from pathlib import PurePosixPath
from typing import Any

from stages.preprocess.columns import OPTIONAL_COLUMNS, REQUIRED_COLUMNS
from stages.preprocess.readers import SUFFIXES
from tools.convert.settings import Found, Theirs

REVISION = re.compile(r"[0-9a-f]{40}")
IS_TEMPLATE = (
    "other meaning: the text around the columns is not copied; rows become chat messages in the model's format"
)


def note_rows(
    theirs: Theirs,
    found: Found,
    key: str,
    place: str,
    row_format: str,
    columns: dict[str, str | None],
    revision: str | None = None,
) -> None:
    """Note how to import the rows of one dataset, and how to read them if their columns do not say it.

    Args:
        theirs: the file.
        found: gets the command and the entry of preprocess.files.
        key: their key that names the dataset.
        place: its path, or its name on the hub.
        row_format: our format.
        columns: our column to theirs; None: the dataset has none.
        revision: the dataset's commit, where the file names it.
    """
    name = PurePosixPath(place).name
    is_file = name.lower().endswith(SUFFIXES)
    known = REQUIRED_COLUMNS[row_format] | OPTIONAL_COLUMNS[row_format]
    renamed = {ours: column for ours, column in columns.items() if column and column not in known[ours]}
    # Without an entry preprocess decides by the columns; it must find the format that theirs names.
    if renamed or not is_found(row_format, columns):
        pattern = name if is_file else f"{name}*"
        entry = {"format": row_format, **({"columns": renamed} if renamed else {})}
        ours = ("preprocess", "files")
        before = found.ours.get(ours, ({}, ""))[0]
        found.ours[ours] = (before | {pattern: entry}, theirs.source(key))
    words = [f"SOURCE={place}"]
    if not is_file:
        words += [f"REVISION={revision if revision and REVISION.fullmatch(revision) else 'commit'}"]
        words += [f"NAME={name}.jsonl"] if renamed else []
    found.rows.append(" ".join(words))
    found.used.add(key)


def is_found(row_format: str, columns: dict[str, str | None]) -> bool:
    """Whether preprocess finds the format of rows by the names of their columns alone."""
    given = {column for column in columns.values() if column}
    for name, required in REQUIRED_COLUMNS.items():
        if all(given & set(synonyms) for synonyms in required.values()):
            return name == row_format
    return False


def first_rows(split: Any) -> str | None:
    """Return why a split such as `train[:20%]` is not carried over; None for the split train."""
    if split in (None, "train"):
        return None
    return f"other meaning: {split}: import that file of the dataset, or draw a sample with `make import LIMIT=`"
