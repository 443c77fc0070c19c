"""Adapter: its files, and what its adapter_config.json may ask for so that it can be merged."""

from typing import Any

import click

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# Keys that merge heeds, or that say nothing about sums. PEFT has many more, for sums of other kinds: one of
# those that is set is an error.
KNOWN = {
    *("alpha_pattern", "auto_mapping", "base_model_name_or_path", "bias", "ensure_weight_tying", "exclude_modules"),
    *("fan_in_fan_out", "inference_mode", "init_lora_weights", "layers_pattern", "layers_to_transform", "lora_alpha"),
    *("lora_bias", "lora_dropout", "megatron_core", "modules_to_save", "peft_type", "peft_version"),
    *("qalora_group_size", "r", "rank_pattern", "revision", "target_modules", "task_type", "use_dora", "use_rslora"),
}
STARTS = (True, False, "gaussian", "orthogonal")  # of init_lora_weights: others, such as pissa, change the base too


def require_known(place: str, config: dict[str, Any]) -> None:
    """Fail when an adapter's config, found at `place`, asks for something that merge cannot add."""
    strange = {key: value for key, value in config.items() if value and key not in KNOWN}
    if config.get("init_lora_weights") not in STARTS:
        strange["init_lora_weights"] = config.get("init_lora_weights")
    if config["peft_type"] != "LORA":
        strange["peft_type"] = config["peft_type"]
    for key, value in sorted(strange.items()):
        raise click.ClickException(f"{place}: {key}: {value!r} cannot be merged; train without it")
