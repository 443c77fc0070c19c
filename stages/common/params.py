"""Params: a section of params.yaml as a pydantic object, checked before a stage starts its work."""

import dataclasses
import difflib
import typing
from pathlib import Path
from typing import Any, TypeVar

import click
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from stages.common import files


class Section(BaseModel):
    """A section of params.yaml: an unknown key is an error, and values cannot change after loading."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


MAX_VALUES = 1_000_000  # of a YAML file; a few lines of aliases can stand for billions
S = TypeVar("S", bound=Section)
T = TypeVar("T")


def load_params(path: Path, name: str, section: type[S]) -> S:
    """Read section `name` of the params file at `path`.

    Raises:
        click.ClickException: no such file, not YAML, no such section, or a key is unknown, missing or of the wrong
            type. One line per problem.
    """
    document = read_yaml(path)
    if not isinstance(document, dict) or not isinstance(document.get(name), dict):
        raise click.ClickException(f"{path}: {name}: missing section")
    try:
        return section.model_validate(document[name])
    except ValidationError as error:
        # A key that allows several types has one problem per type, but gets one line.
        problems: dict[tuple[str, ...], list[Any]] = {}
        for problem in error.errors():
            problems.setdefault(_written(document[name], problem["loc"]), []).append(problem)
        lines = [f"{path}: {'.'.join((name, *keys))}: {_words(section, keys, p)}" for keys, p in problems.items()]
        raise click.ClickException("\n".join(lines)) from None


def read_yaml(path: Path) -> Any:
    """Parse a YAML file as DVC does (YAML 1.2: `2e-4` is a number).

    Raises:
        click.ClickException: no such file, or see `parse_yaml`.
    """
    if not path.exists():
        raise click.ClickException(f"{path}: no such file; run from the repository root")
    return parse_yaml(files.read_bytes(path, "git checkout"), str(path))


def parse_yaml(content: bytes, name: str) -> Any:
    """Parse YAML as DVC does.

    Args:
        content: the file.
        name: its name, for messages.

    Raises:
        click.ClickException: not YAML, with the line; aliases that stand for very many values; see `files.decode`.
    """
    try:
        document = YAML(typ="safe", pure=True).load(files.decode(content, name))
        _values(document, {})
        return document
    except RecursionError:
        raise click.ClickException(f"{name}: not YAML: nested too deeply") from None
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{name}:{mark.line + 1}" if mark else name
        raise click.ClickException(f"{where}: not YAML: {getattr(error, 'problem', error)}") from None


def _values(value: Any, known: dict[int, int]) -> int:
    """Count the values in a document, an alias as often as it stands there. `known` has the counts by id."""
    if not isinstance(value, dict | list):
        return 1
    if id(value) not in known:
        known[id(value)] = MAX_VALUES  # until it is counted: a list may hold itself
        parts = value.values() if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_values(part, known) for part in parts)
    if known[id(value)] > MAX_VALUES:
        raise YAMLError("its aliases stand for too many values")
    return known[id(value)]


def build_config(
    path: Path, name: str, values: dict[str, Any], config: type[T], fixed: dict[str, Any] | None = None
) -> T:
    """Build a library's config from a sub-section of params.yaml and the keys that the stage itself sets.

    Args:
        path: the params file, for messages.
        name: dotted name of the sub-section, for messages (`train.lora`).
        values: its keys and values.
        config: a dataclass such as `peft.LoraConfig`.
        fixed: keys and values that the stage sets; `values` must not hold these keys.

    Raises:
        click.ClickException: an unknown or fixed key, a value that does not fit the field's type, or a
            combination that the library refuses.
    """
    fields = {field.name for field in dataclasses.fields(config) if field.init}  # type: ignore[arg-type]
    hints = typing.get_type_hints(config)
    lines = []
    for key, value in values.items():
        if key not in fields:
            lines.append(f"{path}: {name}.{key}: unknown key{_guess(key, fields)}")
        elif fixed and key in fixed:
            lines.append(f"{path}: {name}.{key}: set by the stage itself; delete the line")
        elif problem := _misfit(hints[key], value):
            lines.append(f"{path}: {name}.{key}: {problem}")
    if lines:
        raise click.ClickException("\n".join(lines))
    try:
        return config(**values, **(fixed or {}))
    except ValueError as error:
        raise click.ClickException(f"{path}: {name}: {' '.join(str(error).split())}") from None


def _misfit(hint: Any, value: Any) -> str:
    try:
        # A YAML list may become a tuple. Everything else is strict: "16" must not be accepted as a number.
        checked = TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True))
        checked.validate_python(value, strict=not isinstance(value, list))
    except ValidationError as error:
        return f"{_message(error.errors()[0])} (got {value!r})"
    return ""


def _written(values: Any, location: tuple[int | str, ...]) -> tuple[str, ...]:
    """Keep the keys of pydantic's location that are in the file; it may end with the type that pydantic tried."""
    keys: list[str] = []
    for part in location:
        if not isinstance(values, dict | list):
            break
        keys.append(str(part))
        values = (dict(enumerate(values)) if isinstance(values, list) else values).get(part)
    return tuple(keys)


def _words(section: type[BaseModel], keys: tuple[str, ...], problems: list[Any]) -> str:
    kinds = {problem["type"] for problem in problems}
    if "missing" in kinds:
        return "missing key"
    if "extra_forbidden" in kinds:
        return f"unknown key{_guess(keys[-1], _known(section, keys[:-1]))}"
    return f"{' or '.join(map(_message, problems))} (got {problems[0]['input']!r})"


def _message(problem: Any) -> str:
    # The rest names a class of this project, or of pydantic.
    text = problem["msg"].partition(" or instance of ")[0].removeprefix("Value error, ")
    return f"{text[0].lower()}{text[1:]}"


def _known(section: type[BaseModel], keys: tuple[str, ...]) -> set[str]:
    for key in keys:
        annotation = section.model_fields[key].annotation
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return set()
        section = annotation
    return set(section.model_fields)


def _guess(key: str, known: set[str]) -> str:
    close = difflib.get_close_matches(key, sorted(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""
