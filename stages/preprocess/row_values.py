"""Row values: a raw row, its values as text, list or JSON, and the exception that leaves a row out."""

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import orjson


class RawRow(NamedTuple):
    """A row as it stands in its file. Where this row alone cannot be read, `drop_reason` and `detail` say why."""

    line: int
    values: Any
    drop_reason: str = ""
    detail: str = ""


class DropRow(Exception):
    """Leave this row out.

    Attributes:
        reason: the drop reason, a key of stages.common.drop_reasons.REASONS.
        detail: what in the row is the cause, such as the name of an unknown role, or "".
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.reason, self.detail = reason, detail


def dump(value: Any, option: int | None = None) -> bytes:
    """Return a value as JSON text. What JSON cannot hold drops the row."""
    try:
        return orjson.dumps(value, option=option)
    except TypeError as error:  # orjson raises it for lone surrogates, and for numbers and depths beyond its limits
        if "surrogates" in str(error):
            raise DropRow("invalid_unicode") from None
        raise DropRow("wrong_type", "a value that JSON cannot hold") from None


def as_json(value: Any) -> Any:
    """Return a value as JSON holds it (no NaN, no dates), so that the template reads what train.jsonl holds."""
    return orjson.loads(dump(value))


def strings(value: Any, *, names: bool = True) -> Iterator[str]:
    """List every text in a value, with the names of its keys (such as a tool's arguments) or without."""
    waiting = [value]  # no recursion: a raw row may be nested deeper than Python's stack
    while waiting:
        part = waiting.pop()
        if isinstance(part, str):
            yield part
        elif isinstance(part, dict):
            for name, inner in reversed(part.items()):
                waiting += (inner, name) if names else (inner,)
        elif isinstance(part, list):
            waiting += reversed(part)


def is_empty(value: Any) -> bool:
    """Whether a value says nothing: null, not a number (pandas' NaN), or an empty text, list or object."""
    return value is None or value != value or (isinstance(value, str | list | dict) and not value)


def to_text(value: Any, where: str) -> str:
    """Return text, and None as empty text. Any other type drops the row; `where` names the value."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise DropRow("wrong_type", f"{where} is {kind_of(value)}")
    return value


def to_list(value: Any, where: str) -> list[Any]:
    """Return a list, also from JSON text. Any other type drops the row; `where` names the value."""
    parsed = parse(value)
    if not isinstance(parsed, list):
        raise DropRow("wrong_type", f"{where} is {kind_of(parsed)}")
    return parsed


def parse(value: Any) -> Any:
    """Parse JSON text of a list or object: CSV files and some hub files hold conversations as text."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def kind_of(value: Any) -> str:
    """Name the type of a value in a message."""
    if value is None:
        return "missing"
    words = ((bool, "a boolean"), (int | float, "a number"), (str, "text"), (list, "a list"), (dict, "an object"))
    return next((name for kind, name in words if isinstance(value, kind)), type(value).__name__)
