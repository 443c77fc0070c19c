"""Adapter config: the files of an adapter, and the keys of adapter_config.json that merge supports."""

from typing import Any

import click

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# Keys that merge uses, or that do not change the delta. PEFT has many more, for other kinds of adapters: it is an
# error when one of those is set.
KNOWN = {
    *("alpha_pattern", "auto_mapping", "base_model_name_or_path", "bias", "ensure_weight_tying", "exclude_modules"),
    *("fan_in_fan_out", "inference_mode", "init_lora_weights", "layers_pattern", "layers_to_transform", "lora_alpha"),
    *("lora_bias", "lora_dropout", "megatron_core", "modules_to_save", "peft_type", "peft_version"),
    *("qalora_group_size", "r", "rank_pattern", "revision", "target_modules", "task_type", "use_dora", "use_rslora"),
}
SET_BY_AN_EMPTY_LIST = ("alora_invocation_tokens", "trainable_token_indices")  # PEFT asks whether they are null
INITS = (True, False, "gaussian", "orthogonal")  # of init_lora_weights; others, such as pissa, also change the base


def require_known(source: str, config: dict[str, Any]) -> None:
    """Fail when an adapter's config has a key or value that merge does not support.

    Args:
        source: where the config is from, for messages.
        config: its keys and values.

    Raises:
        click.ClickException: the first such key.
    """
    unsupported = {
        key: value
        for key, value in config.items()
        if key not in KNOWN and (value or (key in SET_BY_AN_EMPTY_LIST and value == []))
    }
    if config.get("init_lora_weights") not in INITS:
        unsupported["init_lora_weights"] = config.get("init_lora_weights")
    if config["peft_type"] != "LORA":
        unsupported["peft_type"] = config["peft_type"]
    for key, value in sorted(unsupported.items()):
        raise click.ClickException(f"{source}: {key}: {value!r} cannot be merged; train without it")
