"""Settings of another trainer: the file is read, and what it decides is collected key by key."""

import re
import shlex
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

import click

from stages.common.params import read_yaml
from tools.recipe.overlays import Key

WHOLE, NUMBER, TEXT, NAMES = (int,), (int, float), (str,), (str, list)
# What keys of the three trainers hold whose values are computed with.
SHAPES: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("micro_batch_size", "gradient_accumulation_steps", "batch_size", "sequence_len"), WHOLE),
    **dict.fromkeys(("per_device_train_batch_size", "cutoff_len", "lora_rank", "max_seq_length", "max_steps"), WHOLE),
    **dict.fromkeys(("val_set_size", "val_size", "evals_per_epoch", "num_epochs", "cosine_min_lr_ratio"), NUMBER),
    **dict.fromkeys(("base_model", "model_name_or_path", "model", "adapter", "stage", "finetuning_type"), TEXT),
    **dict.fromkeys(("training_type", "dataset_dir", "format_type"), TEXT),
    **dict.fromkeys(("lora_target", "additional_target", "dataset", "target_modules"), NAMES),
    **dict.fromkeys(("datasets", "local_dataset"), (list,)),
    "special_tokens": (dict,),
}
SHAPE_NAMES: dict[tuple[type, ...], str] = {
    WHOLE: "a whole number",
    NUMBER: "a number",
    TEXT: "text",
    NAMES: "text or a list",
    (list,): "a list",
}
OFF: tuple[Any, ...] = (None, False, "", [], {}, "none", "None")  # a key that is switched off asks for nothing


class Theirs(NamedTuple):
    """A file of another trainer.

    Attributes:
        tool: the trainer's name.
        path: the file.
        given: what the file sets.
        defaults: what the trainer takes for keys that the file does not set, as far as it differs from this project.
        gpus: how many GPUs it trains on.
        names: how the file writes a key, where it has another name than in `given`.
    """

    tool: str
    path: Path
    given: dict[str, Any]
    defaults: dict[str, Any]
    gpus: int
    names: dict[str, str] = {}  # noqa: RUF012

    def value(self, key: str) -> Any:
        """Return what the trainer takes for a key: the file's value, else the trainer's default."""
        value = self.given.get(key)
        return self.defaults.get(key) if value is None else value

    def source(self, *keys: str) -> str:
        """Name the keys that a value comes from."""
        default = f" ({self.tool}'s default)"
        return ", ".join(
            f"{self.names.get(key, key)}{'' if self.given.get(key) is not None else default}" for key in keys
        )


class Found(NamedTuple):
    """What becomes of the settings.

    Attributes:
        ours: the keys of params.yaml, each with its value and where it comes from.
        left: their keys that are not carried over, each with the reason.
        used: their keys that are carried over.
        rows: the commands that import the rows.
    """

    ours: dict[Key, tuple[Any, str]]
    left: dict[str, str]
    used: set[str]
    rows: list[str]


def read_settings(path: Path) -> dict[str, Any]:
    """Read a YAML file, or a shell script with a command line such as `llamafactory-cli train --stage sft ...`.

    Raises:
        click.ClickException: no such file, or neither of the two.
    """
    if path.suffix == ".sh":
        return _arguments(path)
    document = read_yaml(path)
    if not isinstance(document, dict) or not document:
        raise click.ClickException(f"{path}: no settings; name a YAML file of keys and values, or a .sh file")
    return {str(key): value for key, value in document.items()}


def require_shapes(theirs: Theirs) -> None:
    """Fail when a key has a value of another kind than its trainer takes.

    Raises:
        click.ClickException: the first such key.
    """
    for key, kinds in SHAPES.items():
        value = theirs.given.get(key)
        if value is not None and (not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds)):
            name = theirs.names.get(key, key)
            raise click.ClickException(
                f"{theirs.path}: {name}: must be {SHAPE_NAMES.get(kinds, 'keys and values')} (got {value!r})"
            )
    if not all(isinstance(one, dict) for one in theirs.given.get("datasets") or []):
        raise click.ClickException(f"{theirs.path}: datasets: each must be keys and values, such as path and type")


def carry(
    theirs: Theirs, found: Found, keys: str | tuple[str, ...], ours: str, value: Any = None, note: str = ""
) -> None:
    """Note a value of params.yaml.

    Args:
        theirs: the file.
        found: gets the value.
        keys: their key or keys that decide it.
        ours: our key, with dots.
        value: our value; None: the value of the first key.
        note: how the value is computed from theirs.
    """
    keys = (keys,) if isinstance(keys, str) else keys
    value = theirs.value(keys[0]) if value is None else value
    found.used.update(keys)
    if value is not None:
        found.ours[tuple(ours.split("."))] = (_number(value), f"{theirs.source(*keys)}{note and f'; {note}'}")


def leave(theirs: Theirs, found: Found, key: str, reason: str) -> None:
    """Note a key that is not carried over, if the file sets it and nothing has used it."""
    if theirs.given.get(key) not in OFF and key not in found.used:
        found.left[theirs.names.get(key, key)] = reason


def leave_rest(theirs: Theirs, found: Found, reasons: dict[str, str]) -> list[str]:
    """Note why each other key of the file is not carried over.

    Args:
        theirs: the file.
        found: gets the keys.
        reasons: pattern of keys, and the reason; the first that fits.

    Returns:
        The keys that are switched off or have no value, so that nothing is lost with them.
    """
    off = []
    for key, value in theirs.given.items():
        name = theirs.names.get(key, key)
        if key in found.used or name in found.left:
            continue
        if value in OFF:
            off.append(name)
            continue
        fitting = (reason for pattern, reason in reasons.items() if fnmatchcase(key, pattern))
        found.left[name] = next(fitting, f"unknown: not among the keys of {theirs.tool} that are looked at here")
    return off


def _number(value: Any) -> Any:
    """Read a number that YAML 1.1 or quotes left as text, such as 2e-4."""
    if isinstance(value, str) and re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", value):
        return float(value)
    return value


def _arguments(path: Path) -> dict[str, Any]:
    """Read the options of the first command line that has any."""
    try:
        text = path.read_text(encoding="utf-8").replace("\\\n", " ")
    except (OSError, UnicodeDecodeError) as error:
        raise click.ClickException(f"{path}: {getattr(error, 'strerror', None) or 'not UTF-8'}") from None
    line = next((line for line in text.splitlines() if " --" in line and not line.lstrip().startswith("#")), "")
    try:
        words = shlex.split(line, comments=True)
    except ValueError as error:
        raise click.ClickException(f"{path}: the command line cannot be read: {error}") from None
    found: dict[str, list[str]] = {}
    values: list[str] = []
    for word in words:
        if word.startswith("--"):
            key, sign, value = word[2:].partition("=")
            values = found.setdefault(key.replace("-", "_"), [])
            values += [value] if sign else []
        else:
            values.append(word)
    if not found:
        raise click.ClickException(f"{path}: no command line with options such as --learning_rate 0.0001")
    if variables := [key for key, value in found.items() if any("$" in word for word in value)]:
        raise click.ClickException(
            f"{path}: --{variables[0]}: the value is a variable of the script; write its value in place of it"
        )
    return {key: _scalar(" ".join(words)) if words else True for key, words in found.items()}


def _scalar(text: str) -> Any:
    known = {"true": True, "false": False, "none": None, "null": None}
    if text.lower() in known:
        return known[text.lower()]
    return int(text) if re.fullmatch(r"[+-]?\d+", text) else _number(text)
