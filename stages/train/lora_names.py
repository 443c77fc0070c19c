"""LoRA names: every name in train.lora must match the base model, because PEFT passes over one that does not."""

import copy
import difflib
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import click
import peft
import torch
from peft.tuners.tuners_utils import _maybe_include_all_linear_layers, check_target_module_exists
from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
from peft.utils.other import get_pattern_key
from transformers.pytorch_utils import Conv1D

ADAPTABLE = (torch.nn.Linear, torch.nn.Embedding, Conv1D)


def require_names(params: Path, base: Path, lora: peft.LoraConfig, model: Any) -> None:
    """Fail when a name, pattern or layer number in train.lora has no effect on the model.

    Args:
        params: the params file, for messages.
        base: the base model's folder, for messages.
        lora: the config of the adapter.
        model: the base model, with or without its weights.

    Raises:
        click.ClickException: one line for each name.
    """
    problems = _unmatched(base, lora, model) or _without_effect(base, lora, model)
    if problems:
        raise click.ClickException("\n".join(f"{params}: train.lora.{problem}" for problem in problems))


def target_names(lora: peft.LoraConfig, model: Any) -> list[str]:
    """List the modules of a model that get an adapter, by PEFT's own rules.

    Args:
        lora: the config of the adapter. It is not changed.
        model: the base model, with or without its weights.
    """
    config = copy.copy(lora)
    if config.target_modules is None:
        config.target_modules = TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING.get(model.config.model_type, [])
    config = _maybe_include_all_linear_layers(config, model)
    return [name for name, _ in model.named_modules() if name and check_target_module_exists(config, name)]


def saved_names(entries: Iterable[str], model: Any) -> list[str]:
    """List the modules that entries of modules_to_save match: PEFT compares the end of the full name."""
    ends = tuple(entries)
    return [name for name, _ in model.named_modules(remove_duplicate=False) if name and name.endswith(ends)]


def is_named(entry: str, name: str) -> bool:
    """Return whether an entry of target_modules or exclude_modules names a module: in full, or by its last parts."""
    return name == entry or name.endswith(f".{entry}")


def _unmatched(base: Path, lora: peft.LoraConfig, model: Any) -> list[str]:
    """List the entries that match no module of the model at all, and the patterns that are none."""
    names = [name for name, _ in model.named_modules(remove_duplicate=False) if name]
    adaptable = [name for name, module in model.named_modules() if isinstance(module, ADAPTABLE)]
    trainable = [name for name, module in model.named_modules() if name and list(module.parameters(recurse=False))]
    problems = []
    for key in ("target_modules", "exclude_modules"):
        value = getattr(lora, key)
        if isinstance(value, str):
            if key != "target_modules" or value.lower() != "all-linear":
                problems += _bad_pattern(key, value, value, re.fullmatch, names, base, adaptable)
            continue
        for entry in sorted(value or ()):
            if not any(is_named(entry, name) for name in names):
                problems.append(f"{key}: {entry} matches no layer of {base}{_near(entry, adaptable)}")
    for entry in lora.modules_to_save or ():
        found = saved_names([entry], model)
        if not found:
            problems.append(f"modules_to_save: {entry} matches no layer of {base}{_near(entry, trainable)}")
        elif not any(list(model.get_submodule(name).parameters()) for name in found):
            problems.append(f"modules_to_save: {entry} has no weights to train in {base}{_near(entry, trainable)}")
    kind = model.config.model_type
    if lora.target_modules is None and kind not in TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING:
        problems.append(f"target_modules: PEFT has no default for a {kind} model; set all-linear")
    for pattern in _listed(lora.layers_pattern):
        whole = rf"(?:^|.*?\.){pattern}\.(\d+)\."
        lists = [name for name, module in model.named_modules() if isinstance(module, torch.nn.ModuleList)]
        problems += _bad_pattern("layers_pattern", pattern, whole, re.match, names, base, lists)
    for key in ("rank_pattern", "alpha_pattern"):
        for pattern, value in (getattr(lora, key) or {}).items():
            problems += _bad_pattern(key, pattern, rf"(.*\.)?({pattern})$", re.match, names, base, adaptable)
            whole_number = isinstance(value, int) and not isinstance(value, bool)
            if not (whole_number or (key == "alpha_pattern" and isinstance(value, float))) or value <= 0:
                problems.append(f"{key}: {pattern} must have a positive number (got {value!r})")
    return problems


def _bad_pattern(
    key: str, shown: Any, pattern: str, match: Callable[..., Any], names: list[str], base: Path, near: list[str]
) -> list[str]:
    try:
        if any(match(pattern, name) for name in names):
            return []
    except re.error as error:
        return [f"{key}: {shown} is no regular expression ({error})"]
    if key in ("target_modules", "exclude_modules") and any(is_named(shown, name) for name in names):
        return [f"{key}: {shown} is a regular expression, and matches no full name; write [{shown}]"]
    return [f"{key}: {shown} matches no layer of {base}{_near(str(shown), near)}"]


def _without_effect(base: Path, lora: peft.LoraConfig, model: Any) -> list[str]:
    """List the entries that match modules, but none that gets an adapter."""
    targets, problems = target_names(lora, model), []
    if not isinstance(lora.target_modules, str):
        limits = ("exclude_modules", "layers_to_transform", "modules_to_save")
        limiting = " and ".join(key for key in limits if getattr(lora, key) not in (None, [], set()))
        problems += [
            f"target_modules: {entry} matches no layer that {limiting} leaves; delete one of them"
            for entry in sorted(lora.target_modules or ())
            if not any(is_named(entry, name) for name in targets)
        ]
    problems += _wrong_layers(base, lora, model, targets)
    for key in ("rank_pattern", "alpha_pattern"):
        patterns = getattr(lora, key) or {}
        chosen = {name: get_pattern_key(list(patterns), name) for name in targets}
        saved = {name: get_pattern_key(sorted(patterns), name) for name in targets}
        for pattern in patterns:
            if pattern in chosen.values():
                continue
            if any(get_pattern_key([pattern], name) == pattern for name in targets):
                problems.append(f"{key}: {pattern} matches only layers that an earlier key matches; put it first")
            else:
                near = _near(pattern, targets)
                problems.append(f"{key}: {pattern} matches no layer that target_modules names{near}")
        clash = [name for name in targets if patterns.get(chosen[name]) != patterns.get(saved[name])]
        if clash and not problems:
            problems.append(
                f"{key}: {chosen[clash[0]]} and {saved[clash[0]]} both match {clash[0]}, and PEFT takes the first in "
                "this file but the first in alphabetical order once the adapter is saved; write keys that exclude "
                "each other"
            )
    return problems


def _wrong_layers(base: Path, lora: peft.LoraConfig, model: Any, targets: list[str]) -> list[str]:
    """List what is wrong with layers_to_transform."""
    wanted = _listed(lora.layers_to_transform)
    if not wanted:
        return []
    everywhere = copy.copy(lora)
    everywhere.layers_to_transform = everywhere.layers_pattern = None
    patterns = _listed(lora.layers_pattern)
    numbered = {name: _layer(name, patterns) for name in target_names(everywhere, model)}
    present = sorted({number for number in numbered.values() if number is not None})
    problems = [
        f"layers_to_transform: {number} is no layer of {base} that target_modules names"
        + (f"; they are {present[0]} to {present[-1]}" if present else "")
        for number in wanted
        if number not in present
    ]
    ignoring = [name for name in targets if numbered.get(name) not in (None, *wanted)]
    if ignoring and not problems:
        problems.append(
            f"layers_to_transform: PEFT does not apply it to {ignoring[0]}, which target_modules names in full; use "
            "one of the two"
        )
    return problems


def _layer(name: str, patterns: list[str]) -> int | None:
    """Find the number of the layer that a module lies in, as PEFT does."""
    for pattern in [rf"(?:^|.*?\.){pattern}\.(\d+)\." for pattern in patterns] or [r".*?\.[^.]*\.(\d+)\."]:
        if found := re.match(pattern, name):
            return int(found[1])
    return None


def _listed(value: Any) -> list[Any]:
    return [] if value is None else [value] if isinstance(value, int | str) else list(value)


def _near(entry: str, names: list[str]) -> str:
    """Say which name is meant, perhaps, and which there are."""
    last = sorted({name.rpartition(".")[2] for name in names})
    word = re.findall(r"\w+", entry)[-1:]
    close = difflib.get_close_matches(entry, names, n=1) if "." in entry else []
    close = close or difflib.get_close_matches(word[0] if word else entry, last, n=1)
    return (f"; did you mean {close[0]}?" if close else ";") + f" layers are: {', '.join(last)}"
