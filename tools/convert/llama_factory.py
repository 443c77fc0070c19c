"""LLaMA-Factory's settings (arguments of llamafactory 0.9) in the words of params.yaml."""

import json
import re
from pathlib import Path
from typing import Any

import click

from tools.convert.axolotl import CHECKPOINTS, ONE_GPU, OTHER_TRAINING, PLACES, REPORTS, SPEED, TEMPLATE
from tools.convert.rows import first_rows, note_rows
from tools.convert.settings import OFF, Found, Theirs, carry, leave

# LLaMA-Factory's own defaults, and those of transformers' TrainingArguments, as far as this project's are others.
DEFAULTS = {
    "stage": "sft",
    "finetuning_type": "lora",
    "lora_rank": 8,
    "lora_target": "all",
    "cutoff_len": 2048,
    "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 1,
    "learning_rate": 5e-5,
    "lr_scheduler_type": "linear",
    "warmup_steps": 0,
    "seed": 42,
}
SAME = {
    "seed": "train.seed",
    "max_samples": "preprocess.rows",
    "dataloader_num_workers": "train.machine.dataloader_num_workers",
    "lora_rank": "train.lora.r",
    "lora_dropout": "train.lora.lora_dropout",
    "use_rslora": "train.lora.use_rslora",
    "use_dora": "train.lora.use_dora",
}
# Arguments of transformers, which train.sft takes under the same names.
TRAINER = (
    *("learning_rate", "lr_scheduler_type", "lr_scheduler_kwargs", "num_train_epochs", "max_steps", "weight_decay"),
    *("max_grad_norm", "adam_beta1", "adam_beta2", "adam_epsilon", "optim", "optim_args", "logging_steps"),
    *("neftune_noise_alpha", "label_smoothing_factor", "gradient_checkpointing_kwargs"),
)
REASONS = {
    **dict.fromkeys(("output_dir", "overwrite_*", "tokenized_path", "cache_dir", "do_train", "do_eval"), PLACES),
    **dict.fromkeys(
        ("preprocessing_*", "flash_attn", "attn", "*liger*", "use_unsloth*", "use_cache", "use_fast*"), SPEED
    ),
    **dict.fromkeys(("*_reentrant_gc", "per_device_eval_batch_size", "dataloader_*", "torch_compile*"), SPEED),
    **dict.fromkeys(("low_cpu_mem_usage", "use_kv_cache", "double_quantization", "quantization_type"), SPEED),
    **dict.fromkeys(
        ("report_to", "plot_loss", "run_name", "swanlab_*", "use_swanlab", "logging_*", "include_*"), REPORTS
    ),
    **dict.fromkeys(("save_*", "resume_from_checkpoint"), CHECKPOINTS),
    **dict.fromkeys(("deepspeed", "fsdp*", "ddp_*", "ray_*", "use_mca"), ONE_GPU),
    **dict.fromkeys(("pref_*", "kto_*", "ppo_*", "reward_*", "ref_*", "dpo_*", "simpo_*"), OTHER_TRAINING),
    **dict.fromkeys(("use_galore", "galore_*", "use_apollo", "apollo_*", "use_badam", "badam_*"), OTHER_TRAINING),
    **dict.fromkeys(("use_muon", "use_adam_mini", "use_dft_loss", "use_eaft_loss", "use_llama_pro"), OTHER_TRAINING),
    **dict.fromkeys(("freeze_*", "mixture_of_depths", "moe_aux_loss_coef"), OTHER_TRAINING),
    **dict.fromkeys(("image_*", "video_*", "audio_*", "media_dir"), "unsupported: a text model reads no media"),
    **dict.fromkeys(
        ("export_*", "infer_*", "vllm_*"), "not needed: merge and awq write the models, `make serve` serves them"
    ),
    **dict.fromkeys(("do_predict", "predict_with_generate"), "not needed: eval generates answers after the training"),
    **dict.fromkeys(
        ("temperature", "top_p", "top_k", "max_new_tokens"), "other meaning: eval and serve have their own keys"
    ),
    **dict.fromkeys(
        ("add_tokens", "add_special_tokens", "resize_vocab", "new_special*"),
        "unsupported: the vocabulary does not grow",
    ),
    "dataset_dir": "not needed: `make import` takes the files",
    "bf16": "not needed: a GPU computes in bfloat16, a CPU in float32",
    "pure_bf16": "other meaning: weights in training stay float32 with method full; a GPU computes in bfloat16",
    "fp16": "unsupported: float16 overflows without an error; a GPU computes in bfloat16",
    "fp8*": "unsupported: training computes in bfloat16; awq.scheme FP8_DYNAMIC quantises afterwards",
    "tf32": "unsupported: it changes float32 sums on some GPUs only; everything large is bfloat16 already",
    "trust_remote_code": "unsupported: code inside a model's folder is never run",
    "template": TEMPLATE,
    "default_system": "other meaning: put it into the rows, as a message with the role system",
    "tool_format": "not needed: tool calls go through the model's own template",
    "train_on_prompt": "unsupported: only answers are in the loss, never prompts",
    "mask_history": "other meaning: mark the earlier answers with `weight: 0` (docs/data.md)",
    "streaming": "not needed: rows are read as a stream, and tokens are memory-mapped",
    "mix_strategy": "unsupported: all rows of all files are used once per epoch",
    "interleave_probs": "unsupported: all rows of all files are used once per epoch",
    "eval_dataset": "unsupported: val rows are a share of all rows (preprocess.val_fraction)",
    "eval_on_each_dataset": "unsupported: one set of val rows",
    "rope_scaling": "unsupported: the model's config.json decides",
    "shift_attn": "unsupported: attention is the model's own",
    "pissa_*": "unsupported: it changes the base weights, and merge adds the adapter to the base as it was",
    "loraplus_*": "unsupported: both matrices of LoRA have one learning rate",
    "adapter_name_or_path": "other meaning: put the adapter into data/start, and name it in train.resume_from",
    "create_new_adapter": "unsupported: merge the first adapter, and name the result in base.folder",
    "quantization_device_map": "not needed: one GPU holds the model",
    "*_hub_token": "not needed: set HF_TOKEN in the environment, never in a file of settings",
    "push_to_hub": "not needed: `dvc push` shares models",
    "remove_unused_columns": "not needed: every column is accounted for",
    "disable_shuffling": "unsupported: rows are shuffled by train.seed",
    "compute_accuracy": "not needed: eval scores the answers",
}


def convert(theirs: Theirs, found: Found, datasets: Path | None) -> None:
    """Carry over what has the same meaning, and note where a key has another.

    Args:
        theirs: the file.
        found: gets the keys.
        datasets: dataset_info.json; None: it is looked for in the folder that `dataset_dir` names.

    Raises:
        click.ClickException: the file is for another kind of training, or names rows that are not listed.
    """
    stage, kind = theirs.value("stage"), theirs.value("finetuning_type")
    if stage not in ("sft", "pt"):
        raise click.ClickException(f"{theirs.path}: stage: {stage}: {OTHER_TRAINING.partition(': ')[2]}")
    if kind not in ("lora", "full"):
        raise click.ClickException(
            f"{theirs.path}: finetuning_type: {kind}: only lora, qlora and full fine-tuning here"
        )
    found.used.add("stage")
    for key, ours in SAME.items():
        if theirs.value(key) is not None:
            carry(theirs, found, key, ours)
    for key in TRAINER:
        if theirs.value(key) is not None:
            carry(theirs, found, key, f"train.sft.{key}")
    _model(theirs, found, kind)
    _adapter(theirs, found)
    _training(theirs, found)
    _lengths(theirs, found, stage)
    _rows(theirs, found, stage, datasets)


def _model(theirs: Theirs, found: Found, kind: str) -> None:
    name = theirs.value("model_name_or_path")
    is_folder = str(name).startswith((".", "/", "~"))
    carry(theirs, found, "model_name_or_path", "base.source", "folder" if is_folder else "hub")
    carry(theirs, found, "model_name_or_path", "base.folder" if is_folder else "base.id")
    if re.fullmatch(r"[0-9a-f]{40}", str(theirs.value("model_revision"))):
        carry(theirs, found, "model_revision", "base.revision")
    leave(theirs, found, "model_revision", "other meaning: base.revision takes a full commit hash of 40 digits")
    if theirs.value("enable_thinking") is not None:
        switch = {"enable_thinking": bool(theirs.value("enable_thinking"))}
        carry(theirs, found, "enable_thinking", "base.template_kwargs", switch)
    bits, by = theirs.value("quantization_bit"), theirs.value("quantization_method")
    is_qlora = kind == "lora" and bits == 4
    keys = ("finetuning_type", "quantization_bit") if is_qlora else ("finetuning_type",)
    carry(theirs, found, keys, "train.method", "qlora" if is_qlora else kind)
    if is_qlora and by in (None, "bnb", "bitsandbytes"):
        found.used.add("quantization_method")
    leave(theirs, found, "quantization_method", "other meaning: method qlora uses bitsandbytes")
    if not is_qlora:
        leave(
            theirs, found, "quantization_bit", f"other meaning: {bits} bits: method qlora has 4, method lora has 16"
        )


def _adapter(theirs: Theirs, found: Found) -> None:
    rank = theirs.value("lora_rank")
    if theirs.value("lora_alpha") is None:
        carry(theirs, found, ("lora_alpha", "lora_rank"), "train.lora.lora_alpha", 2 * rank)
    else:
        carry(theirs, found, "lora_alpha", "train.lora.lora_alpha")
    target = names(theirs.value("lora_target"))
    carry(theirs, found, "lora_target", "train.lora.target_modules", "all-linear" if target == ["all"] else target)
    if theirs.value("additional_target"):
        carry(
            theirs, found, "additional_target", "train.lora.modules_to_save", names(theirs.value("additional_target"))
        )


def _training(theirs: Theirs, found: Found) -> None:
    size, steps = (int(theirs.value(key)) for key in ("per_device_train_batch_size", "gradient_accumulation_steps"))
    keys = ("per_device_train_batch_size", "gradient_accumulation_steps")
    note = f"{size} x {steps} x {theirs.gpus} GPUs"
    carry(theirs, found, keys, "train.batch_size", size * steps * theirs.gpus, note)
    carry(theirs, found, "per_device_train_batch_size", "train.machine.device_batch_size", size)
    grouped = theirs.value("group_by_length")
    carry(
        theirs,
        found,
        "group_by_length",
        "train.sft.train_sampling_strategy",
        "group_by_length" if grouped else "random",
    )
    is_on = not theirs.value("disable_gradient_checkpointing")
    carry(theirs, found, "disable_gradient_checkpointing", "train.sft.gradient_checkpointing", is_on)
    found.used.add("gradient_checkpointing")
    # As in transformers, steps go before the ratio.
    warmup = "warmup_ratio" if theirs.value("warmup_ratio") and not theirs.value("warmup_steps") else "warmup_steps"
    carry(theirs, found, warmup, "train.sft.warmup_steps")
    leave(theirs, found, "warmup_ratio", "not needed: warmup_steps goes first")
    if theirs.value("early_stopping_steps"):
        carry(theirs, found, "early_stopping_steps", "train.early_stopping")
        carry(theirs, found, "early_stopping_steps", "train.keep", "best")
    if theirs.value("load_best_model_at_end"):
        carry(theirs, found, "load_best_model_at_end", "train.keep", "best")
    if theirs.value("eval_strategy") == "steps":
        carry(theirs, found, "eval_strategy", "train.sft.eval_strategy")
        carry(theirs, found, "eval_steps", "train.sft.eval_steps")
    leave(theirs, found, "eval_strategy", "not needed: val rows are scored once per epoch")
    leave(theirs, found, "eval_steps", "not needed: it has no effect without eval_strategy: steps")


def _lengths(theirs: Theirs, found: Found, stage: str) -> None:
    carry(theirs, found, "cutoff_len", "preprocess.max_length")
    carry(theirs, found, "cutoff_len", "preprocess.over_length", "truncate")
    found.left["cutoff_len (longer rows)"] = (
        "other meaning: there prompt and answer are both cut; here a conversation ends after its last full answer "
        "that fits, and a row without one is dropped and counted"
    )
    if theirs.value("packing") or theirs.value("neat_packing") or (stage == "pt" and theirs.value("packing") is None):
        keys = tuple(key for key in ("packing", "neat_packing") if theirs.value(key)) or ("packing",)
        carry(theirs, found, keys, "train.sft.packing", True)
        carry(theirs, found, "cutoff_len", "train.sft.max_length")
        if not theirs.value("neat_packing"):
            found.left["packing (attention)"] = (
                "other meaning: here no row of a pack sees another, as with neat_packing"
            )
    share = theirs.value("val_size") or 0
    if 0 < share < 1:
        carry(theirs, found, "val_size", "preprocess.val_fraction")
    else:
        found.left["val_size"] = (
            "other meaning: eval and the gates need val rows, as a share of all rows; preprocess.val_fraction stays"
        )


def _rows(theirs: Theirs, found: Found, stage: str, path: Path | None) -> None:
    wanted = names(theirs.value("dataset") or "")
    folder = Path(str(theirs.value("dataset_dir") or "data"))
    places = (
        [path]
        if path
        else [one / "dataset_info.json" for one in (folder, theirs.path.parent, theirs.path.parent / folder)]
    )
    file = next((one for one in places if one.is_file()), None)
    if path and not file:
        raise click.ClickException(f"{path}: no such file")
    if not wanted or not file:
        leave(
            theirs, found, "dataset", "other meaning: names entries of dataset_info.json; DATASETS= reads that file"
        )
        return
    try:
        listed = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise click.ClickException(f"{file}: not JSON: {error}") from None
    for name in wanted:
        entry = listed.get(name) if isinstance(listed, dict) else None
        if not isinstance(entry, dict):
            raise click.ClickException(f"{file}: {name}: no such entry, but {theirs.path} names it")
        for key in ("columns", "tags"):
            if not isinstance(entry.get(key) or {}, dict):
                raise click.ClickException(f"{file}: {name}: {key}: must be keys and values (got {entry[key]!r})")
        _dataset(theirs, found, name, entry, stage, file.parent)


def _dataset(theirs: Theirs, found: Found, name: str, entry: dict[str, Any], stage: str, folder: Path) -> None:
    if entry.get("ranking"):
        found.left[f"dataset: {name}"] = OTHER_TRAINING
        return
    columns, tags = entry.get("columns") or {}, entry.get("tags") or {}
    file, place = entry.get("file_name"), entry.get("hf_hub_url")
    place = place or (file and folder / str(file))
    if not place:
        found.left[f"dataset: {name}"] = "unsupported: no file_name or hf_hub_url; no code of a dataset is ever run"
        return
    given: dict[str, str | None]
    if entry.get("formatting") == "sharegpt":
        is_messages = tags.get("role_tag") == "role"
        row_format = "messages" if is_messages else "sharegpt"
        given = {"messages" if is_messages else "conversations": columns.get("messages", "conversations")}
        if {tags.get("role_tag", "from"), tags.get("content_tag", "value")} - {"role", "content", "from", "value"}:
            found.left[f"dataset: {name}: tags"] = (
                "unsupported: a message is role and content, or from and value; rename the keys in the rows"
            )
    elif stage == "pt":
        row_format, given = "text", {"text": columns.get("prompt", "instruction")}
    else:
        row_format = "alpaca"
        given = {
            "instruction": columns.get("prompt", "instruction"),
            "output": columns.get("response", "output"),
            "input": columns.get("query") if columns else "input",
            "history": columns.get("history"),
        }
    if row_format != "text":
        given |= {"system": columns.get("system")}
    if entry.get("formatting") == "sharegpt":
        given |= {"tools": columns.get("tools")}
    note_rows(theirs, found, "dataset", str(place), row_format, given, entry.get("revision"))
    for key, reason in (
        ("split", first_rows(entry.get("split"))),
        ("subset", "other meaning: import that file of the dataset with FILE="),
        ("num_samples", "other meaning: `make import LIMIT=` draws a sample"),
    ):
        if reason and entry.get(key) not in OFF:
            found.left[f"dataset: {name}: {key}"] = reason
    for column in ("images", "videos", "audios"):
        if column in columns:
            found.left[f"dataset: {name}: {column}"] = (
                "unsupported: a text model reads no media; such rows are dropped"
            )


def names(text: str | list[str]) -> list[str]:
    """Split names at commas."""
    parts = text.split(",") if isinstance(text, str) else map(str, text)
    return [name.strip() for name in parts if name.strip()]
