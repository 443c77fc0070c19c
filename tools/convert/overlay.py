"""Overlay: the settings as text in the form of a recipe, and the check that every stage accepts them."""

import functools
import re
import tempfile
import textwrap
from decimal import Decimal
from itertools import groupby
from pathlib import Path
from typing import Any

import click

from stages.common.params import load_params
from stages.train.params import TrainParams
from tools.convert.settings import Found, Theirs
from tools.preflight import load_sections
from tools.recipe.overlays import Document, Key, read_document, replace_lines

# What no other trainer has: these sections are those of a recipe for the same model, or of this one.
OWN = ("merge", "awq", "eval", "compare", "gates")
LIKE = "qwen2.5-7b"
KINDS = ("unsupported", "other meaning", "unknown", "not needed")
ID, REVISION = ("base", "id"), ("base", "revision")


def choose_recipe(found: Found, recipes: dict[str, Document]) -> str:
    """Return the recipe that the later sections are taken from: that of the same model and method, if any."""
    model, method = (found.ours.get(key, (None, ""))[0] for key in (ID, ("train", "method")))
    same = [name for name, one in recipes.items() if model and ID in one.keys and one.keys[ID].value == model]
    by_method = [
        name for name in same if (recipes[name].keys.get(("train", "method")) is None) == (method != "qlora")
    ]
    return (by_method or same or [LIKE])[0]


def write_overlay(theirs: Theirs, found: Found, off: list[str], recipes: dict[str, Document]) -> str:
    """Write the settings that differ from the defaults, each with its source, and what is not carried over.

    Args:
        theirs: the file.
        found: what becomes of its keys.
        off: its keys that are switched off.
        recipes: every recipe by name; `tiny` has the defaults.
    """
    defaults, like = recipes["tiny"], choose_recipe(found, recipes)
    if ID in found.ours and like != LIKE and REVISION not in found.ours:
        revision = recipes[like].keys[REVISION].value
        found.ours[REVISION] = (revision, f"recipe {like}; another: REVISION=...")
    if found.ours["train", "method"][0] == "full":
        for key in [key for key in found.ours if key[:2] == ("train", "lora")]:
            source = found.ours.pop(key)[1]
            if theirs.tool not in source:  # as it is where only defaults decide
                found.left[source] = "not needed: full fine-tuning has no adapter"
    # A switch that is off is the library's default, too.
    usual = {key: entry.value for key, entry in defaults.keys.items()}
    same = [key for key, (value, _) in found.ours.items() if usual.get(key, False) == value]
    model = (found.ours.get(ID) or found.ours.get(("base", "folder")) or ("the model of params.yaml", ""))[0]
    method = {"lora": "LoRA", "qlora": "QLoRA", "full": "full fine-tuning"}[found.ours[("train", "method")][0]]
    lines = [f"# {model} with {method}, converted from {theirs.path.name} of {theirs.tool}."]
    if ID in found.ours and REVISION not in found.ours:
        lines += [
            "# base.revision is not set: `make recipe NAME=... REVISION=...` takes the model's full commit hash."
        ]
    if ("base", "folder") in found.ours:
        lines += ["# base.revision is not set: the stage base prints the hash of the folder's files."]
    lines += _sections({key: line for key, line in found.ours.items() if key not in same}, defaults)
    taken = recipes[like]
    first = min(section.start for key, section in taken.sections.items() if key[0] in OWN)
    lines += ["", f"# {theirs.tool} has nothing like the rest: it is that of the recipe {like}.", ""]
    lines += [line.rstrip("\n") for line in taken.lines[first:]]
    lines += ["", *_remarks(theirs, found, off, sorted(".".join(key) for key in same))]
    return "\n".join(lines) + "\n"


def _sections(ours: dict[Key, tuple[Any, str]], defaults: Document) -> list[str]:
    order = {key: number for number, key in enumerate(defaults.keys)}
    above = {key[:-1]: number for key, number in order.items()}  # of the last key of each section
    lines: list[str] = []
    opened: Key = ()
    for key in sorted(ours, key=lambda key: (order.get(key, above.get(key[:-1], len(order))), key)):
        value, source = ours[key]
        parents = key[:-1]
        common = next((n for n, pair in enumerate(zip(parents, opened, strict=False)) if pair[0] != pair[1]), None)
        start = min(len(parents), len(opened)) if common is None else common
        for depth in range(start, len(parents)):
            lines += ["", f"{parents[0]}:"] if not depth else [f"{'  ' * depth}{parents[depth]}:"]
        opened = parents
        lines.append(f"{'  ' * len(parents)}{key[-1]}: {text_of(value)}  # {source}")
    return lines


def _remarks(theirs: Theirs, found: Found, off: list[str], same: list[str]) -> list[str]:
    remarks = [f"Not carried over from {theirs.path.name}:"]
    reasons = sorted(found.left.items(), key=lambda one: (KINDS.index(one[1].partition(":")[0]), one[1]))
    for reason, keys in groupby(reasons, key=lambda one: one[1]):
        remarks.append(f"- {', '.join(key for key, _ in keys)}: {reason}")
    if off:
        remarks.append(f"Switched off or without a value there: {', '.join(off)}.")
    if same:
        remarks.append(f"As here by default: {', '.join(same)}.")
    if found.rows:
        remarks.append("Rows: " + "; ".join(f"`make import {words}`" for words in found.rows) + ".")
    wrap = functools.partial(textwrap.wrap, width=118, break_long_words=False, break_on_hyphens=False)
    return [
        line
        for remark in remarks
        for line in wrap(remark, initial_indent="# ", subsequent_indent="#   " if remark[:1] == "-" else "# ")
    ]


def text_of(value: Any) -> str:
    """Write a value as YAML on one line."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, float):
        text = format(Decimal(repr(value)), "f")
        return text if "." in text else f"{text}.0"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(text_of, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{text_of(key)}: {text_of(one)}' for key, one in value.items())}}}"
    text = str(value)
    plain = re.fullmatch(r"[A-Za-z][\w./-]*", text) and text.lower() not in (
        "true",
        "false",
        "null",
        "yes",
        "no",
        "on",
        "off",
    )
    return text if isinstance(value, int) or plain else '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def leave_unsupported(theirs: Theirs, found: Found) -> None:
    """Move to `left` what the libraries here do not have: an optimizer or a schedule of the other trainer's own."""
    from transformers.trainer_utils import SchedulerType
    from transformers.training_args import OptimizerNames

    for key, known in (("optim", OptimizerNames), ("lr_scheduler_type", SchedulerType)):
        value, source = found.ours.get(("train", "sft", key), (None, ""))
        if value is not None and value not in {one.value for one in known}:
            del found.ours["train", "sft", key]
            found.left[source.partition(" (")[0]] = f"unsupported: {value}; train.sft.{key} stays as it is"


def check(theirs: Theirs, text: str, defaults: Document) -> None:
    """Fail when a stage would refuse the settings, by its params, or a library those of train.lora and train.sft.

    Raises:
        click.ClickException: one line per problem, with our key.
    """
    import torch

    from stages.common.device import Device
    from stages.train.configs import make_configs

    with tempfile.TemporaryDirectory() as name:
        recipe, path = Path(name, "recipe.yaml"), Path(name, "params.yaml")
        recipe.write_text(text, encoding="utf-8")
        keys = read_document(recipe, defaults).keys
        path.write_text(replace_lines(defaults, {key: entry.lines for key, entry in keys.items()}), encoding="utf-8")
        try:
            load_sections(path)
            train = load_params(path, "train", TrainParams)
            make_configs(path, train, Device("cpu", torch.float32, "only the settings are checked"))
        except click.ClickException as error:
            problem = error.message.replace(str(path), "")
            where = f"{theirs.path}: its settings do not fit"
            raise click.ClickException("\n".join(f"{where}{line}" for line in problem.splitlines())) from None
