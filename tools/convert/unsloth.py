"""unsloth's settings (its YAML, its command line, or the arguments of a notebook) in the words of params.yaml."""

import re
from typing import Any

from tools.convert.axolotl import CHECKPOINTS, PLACES, REPORTS, SPEED, TEMPLATE
from tools.convert.llama_factory import TRAINER, names
from tools.convert.rows import note_rows
from tools.convert.settings import Found, Theirs, carry, leave

LAYERS = "q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj"
# What unsloth's YAML takes where the file is silent. Keys of notebooks and of unsloth-cli.py get these names.
DEFAULTS = {
    "training_type": "lora",
    "max_seq_length": 2048,
    "load_in_4bit": True,
    "num_epochs": 3,
    "learning_rate": 2e-4,
    "batch_size": 2,
    "gradient_accumulation_steps": 4,
    "warmup_steps": 5,
    "weight_decay": 0.01,
    "random_seed": 3407,
    "optim": "adamw_8bit",
    "lr_scheduler_type": "linear",
    "lora_r": 64,
    "lora_alpha": 16,
    "target_modules": LAYERS,
    "gradient_checkpointing": "unsloth",
}
# The arguments of a notebook (from_pretrained, get_peft_model, SFTConfig) and unsloth-cli.py have other defaults.
NOTEBOOK = {
    "num_epochs": 3.0,
    "learning_rate": 5e-5,
    "batch_size": 4,
    "gradient_accumulation_steps": 2,
    "warmup_steps": 0.1,
    "lora_r": 16,
}
COMMAND_LINE = {"load_in_4bit": False, "max_steps": 400, "lora_r": 16}
OTHER_NAMES = {
    "model_name": "model",
    "r": "lora_r",
    "num_train_epochs": "num_epochs",
    "per_device_train_batch_size": "batch_size",
    "random_state": "lora_seed",
    "seed": "random_seed",
    "use_gradient_checkpointing": "gradient_checkpointing",
    "max_length": "max_seq_length",
    "report_to": "enable_report",
}
SAME = {
    "random_seed": "train.seed",
    "lora_r": "train.lora.r",
    "lora_alpha": "train.lora.lora_alpha",
    "lora_dropout": "train.lora.lora_dropout",
    "use_rslora": "train.lora.use_rslora",
    "use_dora": "train.lora.use_dora",
    "modules_to_save": "train.lora.modules_to_save",
    "max_seq_length": "preprocess.max_length",
}
VISION = "not needed: a text model has no such layers"
REASONS = {
    **dict.fromkeys(("output_dir", "save_model", "save_method", "save_path", "save_gguf", "quantization*"), PLACES),
    **dict.fromkeys(("enable_*", "wandb_*", "tensorboard_dir", "log_frequency", "dataset_num_proc"), REPORTS),
    **dict.fromkeys(("save_*", "resume_from_checkpoint"), CHECKPOINTS),
    **dict.fromkeys(("dtype", "bf16", "fp16"), "not needed: a GPU computes in bfloat16, a CPU in float32"),
    **dict.fromkeys(("finetune_vision_layers", "vision_all_linear", "is_vision*"), VISION),
    **dict.fromkeys(
        ("finetune_language_layers", "finetune_*_modules"), "not needed: target_modules names the layers"
    ),
    **dict.fromkeys(
        ("push_*", "hub_*", "hf_token", "token"), "not needed: `dvc push` shares models; HF_TOKEN is the token"
    ),
    **dict.fromkeys(
        ("temperature", "top_k", "top_p", "min_p", "presence_penalty"), "other meaning: serve has its own keys"
    ),
    **dict.fromkeys(
        ("dataset_text_field", "format_type"), "not needed: the columns of the rows say it (docs/data.md)"
    ),
    "full_finetuning": "not needed: training_type says it",
    "trust_remote_code": "unsupported: code inside a model's folder is never run",
    "use_loftq": "unsupported: it changes the base weights, and merge adds the adapter to the base as it was",
    "loftq_config": "unsupported: it changes the base weights, and merge adds the adapter to the base as it was",
    "bias": "unsupported: only the matrices of linear layers get an adapter",
    "lora_seed": "not needed: train.seed also is the seed of the adapter's first weights",
    "chat_template": TEMPLATE,
    "load_in_8bit": "other meaning: method qlora has 4 bits, method lora has 16",
    "adapter_file": PLACES,
    "dataset_kwargs": SPEED,
}


def flat(given: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Join the sections of unsloth's YAML, and give keys of notebooks the names that the YAML has.

    Returns:
        The settings, and how the file names those that it names otherwise.
    """
    found: dict[str, Any] = {}
    for key, value in given.items():
        found |= (
            value
            if isinstance(value, dict) and key in ("data", "training", "lora", "logging", "inference")
            else {key: value}
        )
    return {OTHER_NAMES.get(key, key): value for key, value in found.items()}, {
        OTHER_NAMES[key]: key for key in found if key in OTHER_NAMES
    }


def defaults(given: dict[str, Any], is_script: bool) -> dict[str, Any]:
    """Return what unsloth takes for keys that the file does not set: its YAML, a notebook or unsloth-cli.py."""
    if not {"r", "model_name"} & set(given):
        return DEFAULTS
    return DEFAULTS | (COMMAND_LINE if is_script else NOTEBOOK)


def convert(theirs: Theirs, found: Found) -> None:
    """Carry over what has the same meaning, and note where a key has another."""
    for key, ours in SAME.items():
        if theirs.value(key) is not None:
            carry(theirs, found, key, ours)
    for key in TRAINER:
        if theirs.value(key) is not None and key not in ("max_steps", "num_train_epochs"):
            carry(theirs, found, key, f"train.sft.{key}")
    _model(theirs, found)
    _batches(theirs, found)
    _lengths(theirs, found)
    if theirs.value("bias") == "none":
        found.used.add("bias")
    for place in theirs.value("local_dataset") or []:
        note_rows(theirs, found, "local_dataset", str(place), *_format(theirs))
    if theirs.value("dataset"):
        note_rows(theirs, found, "dataset", str(theirs.value("dataset")), *_format(theirs))


def _model(theirs: Theirs, found: Found) -> None:
    name = theirs.value("model")
    if name:
        plain = re.sub(r"(-unsloth)?-bnb-4bit$", "", str(name))
        is_folder = plain.startswith((".", "/", "~"))
        carry(theirs, found, "model", "base.source", "folder" if is_folder else "hub")
        carry(theirs, found, "model", "base.folder" if is_folder else "base.id", plain)
        if plain != name:
            found.left["model (4 bits)"] = (
                f"other meaning: merge needs the weights in 16 bits, so {plain}; method qlora quantises them itself"
            )
    is_full = theirs.value("training_type") == "full" or theirs.value("full_finetuning")
    method = "full" if is_full else "qlora" if theirs.value("load_in_4bit") else "lora"
    carry(theirs, found, ("training_type",) if is_full else ("training_type", "load_in_4bit"), "train.method", method)
    found.used.add("load_in_4bit")
    layers = names(theirs.value("target_modules") or "")
    if layers and not is_full:
        value = "all-linear" if layers in (["all-linear"], ["all"]) else layers
        carry(theirs, found, "target_modules", "train.lora.target_modules", value)


def _batches(theirs: Theirs, found: Found) -> None:
    size, steps = int(theirs.value("batch_size")), int(theirs.value("gradient_accumulation_steps"))
    keys, note = ("batch_size", "gradient_accumulation_steps"), f"{size} x {steps} x {theirs.gpus} GPUs"
    carry(theirs, found, keys, "train.batch_size", size * steps * theirs.gpus, note)
    carry(theirs, found, "batch_size", "train.machine.device_batch_size", size)
    carry(theirs, found, "group_by_length", "train.sft.train_sampling_strategy", "random")
    if theirs.value("group_by_length"):
        carry(theirs, found, "group_by_length", "train.sft.train_sampling_strategy", "group_by_length")
    is_on = str(theirs.value("gradient_checkpointing")).lower() not in ("none", "false", "no", "off", "0")
    carry(theirs, found, "gradient_checkpointing", "train.sft.gradient_checkpointing", is_on)
    if theirs.value("max_steps") and int(theirs.value("max_steps")) > 0:
        carry(theirs, found, "max_steps", "train.sft.max_steps")
        leave(theirs, found, "num_epochs", "not needed: max_steps goes first")
    else:
        found.used.add("max_steps")
        carry(theirs, found, "num_epochs", "train.sft.num_train_epochs")
    ratio = theirs.given.get("warmup_ratio") is not None and theirs.given.get("warmup_steps") is None
    carry(theirs, found, "warmup_ratio" if ratio else "warmup_steps", "train.sft.warmup_steps")


def _lengths(theirs: Theirs, found: Found) -> None:
    carry(theirs, found, "max_seq_length", "preprocess.over_length", "truncate")
    found.left["max_seq_length (longer rows)"] = (
        "other meaning: there a row is cut at that token; here a conversation ends after its last full answer that "
        "fits, and a row without one is dropped and counted"
    )
    if theirs.value("packing"):
        carry(theirs, found, "packing", "train.sft.packing", True)
        carry(
            theirs, found, ("packing", "max_seq_length"), "train.sft.max_length", int(theirs.value("max_seq_length"))
        )
    found.used.add("train_on_completions")
    if not theirs.value("train_on_completions"):
        found.left["train_on_completions"] = (
            "other meaning: there prompts are in the loss, too; here only answers are"
        )


def _format(theirs: Theirs) -> tuple[str, dict[str, str | None]]:
    kind = theirs.value("format_type")
    if kind == "sharegpt":
        return "sharegpt", {"conversations": "conversations"}
    if kind in ("chatml", "conversational"):
        return "messages", {"messages": "messages"}
    if kind == "raw":
        return "text", {"text": "text"}
    return "alpaca", {"instruction": "instruction", "output": "output", "input": "input"}
