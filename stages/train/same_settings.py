"""Same settings: an adapter to start from must have been made with the settings that train.lora has now."""

import json
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any

import click
import peft

from stages.common import adapter_config
from stages.train.lora_names import saved_names, target_names
from stages.train.mergeable import tied_names

# Keys that change no step of a training that starts from the adapter's weights, and why.
NOT_COMPARED = {
    "auto_mapping": "names the class of the base model",
    "base_model_name_or_path": "says where the base model lay",
    "revision": "says which commit of the base model it was",
    "peft_version": "says which PEFT wrote the adapter",
    "peft_type": "is LORA, or the adapter cannot be merged, which is an error of its own",
    "task_type": "chooses the methods that PEFT puts around the model, and not what is trained",
    "inference_mode": "is true in every saved adapter",
    "init_lora_weights": "sets the weights before the first training, and the adapter brings its own",
    "fan_in_fan_out": "is set by PEFT from the class of each layer, whatever the params say",
    "runtime_config": "is not saved",
}
# Keys that together choose the layers: the layers are compared, not how they are written.
LAYERS = ("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern")


def require_same_settings(
    params: Path, written: dict[str, Any], lora: peft.LoraConfig, start: Path, model: Any
) -> None:
    """Fail when the adapter to start from has other settings than the params, PEFT's defaults among them.

    Args:
        params: the params file, for messages.
        written: its section train.lora.
        lora: the config that PEFT makes of it.
        start: the adapter's folder.
        model: the base model, with or without its weights.

    Raises:
        click.ClickException: no adapter, one that cannot be merged, or one line for each key that differs.
    """
    found = saved_config(start)
    differing = {key for key in _compared() if _plain(getattr(lora, key)) != _plain(getattr(found, key))}
    differing -= {*LAYERS, "modules_to_save"} - {*_other_layers(lora, found, model)}
    if differing:
        raise click.ClickException(
            "\n".join(
                f"{params}: train.lora.{key}: {_shown(getattr(lora, key))}{'' if key in written else ' by default'}, "
                f"but the adapter in {start} has {_shown(getattr(found, key))}; use its value"
                for key in sorted(differing)
            )
        )


def saved_config(start: Path) -> peft.LoraConfig:
    """Read the config of an adapter. Keys that the adapter's PEFT did not have yet get their defaults.

    Raises:
        click.ClickException: no config, not JSON, or one with keys or values that merge does not support.
    """
    file = start / adapter_config.CONFIG
    if not file.exists():
        raise click.ClickException(
            f"{start}: no adapter ({adapter_config.CONFIG}); name a folder with one in train.resume_from"
        )
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        adapter_config.require_known(str(file), {"init_lora_weights": True, **found})
        known = {field.name for field in fields(peft.LoraConfig) if field.init} - {"runtime_config"}
        return peft.LoraConfig(**{key: value for key, value in found.items() if key in known})
    except (KeyError, TypeError, ValueError) as error:
        raise click.ClickException(
            f"{file}: not the config of a LoRA adapter ({' '.join(str(error).split())}); name another folder in "
            "train.resume_from"
        ) from None


def _compared() -> list[str]:
    return [field.name for field in fields(peft.LoraConfig) if field.name not in NOT_COMPARED]


def _other_layers(lora: peft.LoraConfig, found: peft.LoraConfig, model: Any) -> Iterable[str]:
    """Find the keys that make the two configs train other layers."""
    other_saved = _saved(lora, model) != _saved(found, model)
    if other_saved:
        yield "modules_to_save"
    if set(target_names(lora, model)) == set(target_names(found, model)):
        return
    free = dict.fromkeys((*LAYERS[1:], "modules_to_save"))
    alone = [peft.LoraConfig(target_modules=config.target_modules, **free) for config in (lora, found)]
    limits = [key for key in LAYERS[1:] if _plain(getattr(lora, key)) != _plain(getattr(found, key))]
    yield from limits
    other_targets = set(target_names(alone[0], model)) != set(target_names(alone[1], model))
    if other_targets or not (limits or other_saved):
        yield "target_modules"


def _saved(config: peft.LoraConfig, model: Any) -> set[str]:
    """List the modules that are trained whole, with those that share a matrix with one of them."""
    saved = set(saved_names(config.modules_to_save or (), model))
    tied = set(tied_names(model))
    return saved | tied if config.ensure_weight_tying and saved & tied else saved


def _plain(value: Any) -> Any:
    """Return a value as it compares: no order where PEFT has none, and nothing for every way to write nothing."""
    if isinstance(value, list | set | tuple):
        return sorted(map(str, value)) or None
    return None if value in ({}, "") else value


def _shown(value: Any) -> str:
    if not isinstance(value, list | set | tuple):
        return str(value)
    names = sorted(map(str, value))
    return f"[{', '.join(names)}]" if len(names) <= 8 else f"[{names[0]} and {len(names) - 1} more]"
