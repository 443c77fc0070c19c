"""axolotl's settings (schema of axolotl 0.19) in the words of params.yaml."""

import re
from typing import Any

import click

from tools.convert.rows import IS_TEMPLATE, first_rows, note_rows
from tools.convert.settings import OFF, Found, Theirs, carry, leave

# What axolotl takes where the file is silent, as far as this project's default is another.
DEFAULTS = {
    "sequence_len": 512,
    "micro_batch_size": 1,
    "gradient_accumulation_steps": 1,
    "num_epochs": 1.0,
    "warmup_ratio": 0.03,
    "seed": 42,
    "group_by_length": False,
}
SAME = {
    "learning_rate": "train.sft.learning_rate",
    "lr_scheduler": "train.sft.lr_scheduler_type",
    "lr_scheduler_kwargs": "train.sft.lr_scheduler_kwargs",
    "optimizer": "train.sft.optim",
    "optim_args": "train.sft.optim_args",
    "weight_decay": "train.sft.weight_decay",
    "max_grad_norm": "train.sft.max_grad_norm",
    "num_epochs": "train.sft.num_train_epochs",
    "max_steps": "train.sft.max_steps",
    "adam_beta1": "train.sft.adam_beta1",
    "adam_beta2": "train.sft.adam_beta2",
    "adam_epsilon": "train.sft.adam_epsilon",
    "neftune_noise_alpha": "train.sft.neftune_noise_alpha",
    "logging_steps": "train.sft.logging_steps",
    "gradient_checkpointing_kwargs": "train.sft.gradient_checkpointing_kwargs",
    "early_stopping_patience": "train.early_stopping",
    "seed": "train.seed",
    "dataloader_num_workers": "train.machine.dataloader_num_workers",
    "lora_r": "train.lora.r",
    "lora_alpha": "train.lora.lora_alpha",
    "lora_dropout": "train.lora.lora_dropout",
    "lora_modules_to_save": "train.lora.modules_to_save",
    "peft_use_dora": "train.lora.use_dora",
    "peft_use_rslora": "train.lora.use_rslora",
    "peft_layers_to_transform": "train.lora.layers_to_transform",
    "peft_layers_pattern": "train.lora.layers_pattern",
    "peft_init_lora_weights": "train.lora.init_lora_weights",
    "peft_ensure_weight_tying": "train.lora.ensure_weight_tying",
    "chat_template_kwargs": "base.template_kwargs",
}
TEMPLATE = (
    "other meaning: the model's own template is used, in training and in serving; for a model without one set "
    "base.chat_template"
)
SPEED = "not needed: how the same sums are computed; docs/train.md has what is faster here"
PLACES = "not needed: inputs and outputs have fixed places, and DVC caches what is prepared"
REPORTS = "not needed: TensorBoard is on; wandb and mlflow are train.machine.report_to"
ONE_GPU = "unsupported: every process holds the whole model; several GPUs share the rows (docs/train.md)"
OTHER_TRAINING = "unsupported: only supervised fine-tuning on answers is done here"
ONCE = "not needed: val rows are scored once per epoch, or every train.sft.eval_steps"
CHECKPOINTS = "not needed: checkpoints only serve to resume, by train.machine.save_steps"
REASONS = {
    "cosine_constant_lr_ratio": "unsupported: transformers has no such schedule",
    "lr_quadratic_warmup": "unsupported: transformers has no such schedule",
    "lr_groups": "unsupported: all trained weights have one learning rate",
    "embedding_lr*": "unsupported: all trained weights have one learning rate",
    **dict.fromkeys(("output_dir", "dataset_prepared_path", "dataset_*", "skip_prepare_dataset"), PLACES),
    **dict.fromkeys(
        ("wandb_*", "use_wandb", "mlflow_*", "use_mlflow", "comet_*", "use_comet", "use_tensorboard"), REPORTS
    ),
    **dict.fromkeys(("trackio_*", "use_trackio", "use_otel_metrics", "otel_*", "gradio_*", "include_t*"), REPORTS),
    **dict.fromkeys(
        ("deepspeed*", "fsdp*", "*_parallel_*", "dp_*", "ddp*", "ray_*", "use_ray", "deepcompile"), ONE_GPU
    ),
    **dict.fromkeys(("flash_att*", "*_attention", "attention", "attn_*", "liger_*", "*_cross_entropy*"), SPEED),
    **dict.fromkeys(("lora_*_kernel", "torch_compile*", "dataloader_*", "sample_packing_*", "low_cpu_mem*"), SPEED),
    **dict.fromkeys(("unsloth_*", "eval_batch_size", "eval_sample_packing", "pad_to_*", "max_memory"), SPEED),
    **dict.fromkeys(("save_*", "saves_per_epoch", "resume_from_checkpoint", "auto_resume*"), CHECKPOINTS),
    **dict.fromkeys(
        ("rl*", "trl", "vllm", "kto_*", "dpo_*", "orpo_*", "simpo_*", "cpo_*", "reward_*"), OTHER_TRAINING
    ),
    **dict.fromkeys(("pretraining_dataset", "qat", "relora*", "lisa_*", "unfrozen_parameters"), OTHER_TRAINING),
    "bf16": "not needed: a GPU computes in bfloat16, a CPU in float32",
    "bfloat16": "other meaning: weights in training stay float32 with method full; a GPU computes in bfloat16",
    "fp16": "unsupported: float16 overflows without an error; a GPU computes in bfloat16",
    "tf32": "unsupported: it changes float32 sums on some GPUs only; everything large is bfloat16 already",
    "fp8*": "unsupported: training computes in bfloat16; awq.scheme FP8_DYNAMIC quantises afterwards",
    "model_type": "not needed: the model's config.json says it",
    "tokenizer_*": "not needed: base takes the model's own tokenizer, and checks it",
    "trust_remote_code": "unsupported: code inside a model's folder is never run",
    "strict": "not needed: every unknown key is an error here",
    "plugins": SPEED,
    "loss_watchdog_*": "other meaning: train.max_loss ends a training, as a multiple of the loss of a random guess",
    "eval_table_size": "not needed: eval writes every answer of the scored val rows",
    "eval_max_new_tokens": "other meaning: eval.max_new_tokens is for the scores after the training",
    "generat*": "not needed: eval generates answers after the training",
    "do_*eval": "not needed: eval scores base, merged and quantised model",
    "test_datasets": "unsupported: val rows are a share of all rows (preprocess.val_fraction)",
    "local_rank": "not needed: LAUNCHER=torchrun sets it",
    "debug": "not needed: `make show-tokens` prints prepared rows token by token",
    "tokens": "unsupported: the vocabulary does not grow",
    "added_tokens_overrides": "unsupported: the vocabulary does not change",
    "default_system_message": "other meaning: put it into the rows, as a message with the role system",
    "eot_tokens": "other meaning: base.stop_token names the one token that ends an answer",
    "hub_*": "not needed: `dvc push` shares models",
    "shuffle_*": "not needed: rows are shuffled by train.seed",
    "lora_fan_in_fan_out": "not needed: the stage finds it out",
    "lora_model_dir": "other meaning: put the adapter into data/start, and name it in train.resume_from",
    "loraplus_*": "unsupported: both matrices of LoRA have one learning rate",
    "load_in_8bit": "other meaning: the frozen base stays in 16 bits, twice the memory; method qlora has 4 bits",
    "train_on_inputs": "unsupported: only answers are in the loss, never prompts",
    "revision_of_model": "other meaning: base.revision takes a full commit hash of 40 digits",
}


def convert(theirs: Theirs, found: Found) -> None:
    """Carry over what has the same meaning, and note where a key has another.

    Raises:
        click.ClickException: the file is for another kind of training.
    """
    if theirs.value("rl") or theirs.value("reward_model") or theirs.value("pretraining_dataset"):
        kind = theirs.value("rl") or ("reward model" if theirs.value("reward_model") else "pretraining")
        raise click.ClickException(f"{theirs.path}: {kind}: {OTHER_TRAINING.partition(': ')[2]}")
    for key, ours in SAME.items():
        if theirs.value(key) is not None:
            carry(theirs, found, key, ours)
    _method(theirs, found)
    _batches(theirs, found)
    _lengths(theirs, found)
    _schedule(theirs, found)
    _template(theirs, found)
    for dataset in theirs.value("datasets") or []:
        _dataset(theirs, found, dataset)


def _method(theirs: Theirs, found: Found) -> None:
    adapter = theirs.value("adapter")
    if adapter not in (None, "lora", "qlora"):
        raise click.ClickException(f"{theirs.path}: adapter: {adapter}: only lora, qlora and full fine-tuning here")
    method = "full" if not adapter else "qlora" if adapter == "qlora" or theirs.value("load_in_4bit") else "lora"
    carry(
        theirs,
        found,
        ("adapter", "load_in_4bit") if theirs.given.get("load_in_4bit") else "adapter",
        "train.method",
        method,
    )
    if theirs.value("lora_target_linear"):
        carry(theirs, found, "lora_target_linear", "train.lora.target_modules", "all-linear")
        leave(theirs, found, "lora_target_modules", "not needed: lora_target_linear adds all linear layers")
    elif theirs.value("lora_target_modules"):
        carry(theirs, found, "lora_target_modules", "train.lora.target_modules")


def _batches(theirs: Theirs, found: Found) -> None:
    micro = int(theirs.value("micro_batch_size"))
    keys, accumulated = (
        ("micro_batch_size", "gradient_accumulation_steps"),
        theirs.value("gradient_accumulation_steps"),
    )
    if theirs.given.get("batch_size") and "gradient_accumulation_steps" not in theirs.given:
        keys, accumulated = ("micro_batch_size", "batch_size"), int(theirs.value("batch_size")) // micro
    found.used.add("batch_size")
    note = f"{micro} x {accumulated} x {theirs.gpus} GPUs"
    carry(theirs, found, keys, "train.batch_size", micro * int(accumulated) * theirs.gpus, note)
    carry(theirs, found, "micro_batch_size", "train.machine.device_batch_size", micro)
    grouped = theirs.value("group_by_length")
    carry(
        theirs,
        found,
        "group_by_length",
        "train.sft.train_sampling_strategy",
        "group_by_length" if grouped else "random",
    )
    checkpointing = theirs.value("gradient_checkpointing")
    carry(theirs, found, "gradient_checkpointing", "train.sft.gradient_checkpointing", bool(checkpointing))
    if isinstance(checkpointing, str):
        found.left[f"gradient_checkpointing ({checkpointing})"] = "other meaning: activations stay on the GPU"
    leave(
        theirs,
        found,
        "activation_offloading",
        "other meaning: set train.sft.activation_offloading where there is a GPU",
    )


def _lengths(theirs: Theirs, found: Found) -> None:
    length = int(theirs.value("sequence_len"))
    carry(theirs, found, "sequence_len", "preprocess.max_length", length)
    what = {"truncate": "truncate", "raise": "error"}.get(theirs.value("excess_length_strategy"), "drop")
    carry(theirs, found, "excess_length_strategy", "preprocess.over_length", what)
    if theirs.value("sample_packing"):
        carry(theirs, found, "sample_packing", "train.sft.packing", True)
        carry(theirs, found, ("sample_packing", "sequence_len"), "train.sft.max_length", length)
    share = theirs.value("val_set_size")
    if isinstance(share, int | float) and 0 < share < 1:
        carry(theirs, found, "val_set_size", "preprocess.val_fraction")
    else:
        found.used.add("val_set_size")
        found.left["val_set_size"] = (
            "other meaning: eval and the gates need val rows, as a share of all rows; preprocess.val_fraction stays"
        )


def _schedule(theirs: Theirs, found: Found) -> None:
    if theirs.given.get("warmup_steps") is not None:
        carry(theirs, found, "warmup_steps", "train.sft.warmup_steps")
        leave(theirs, found, "warmup_ratio", "not needed: warmup_steps goes first")
    else:
        carry(theirs, found, "warmup_ratio", "train.sft.warmup_steps")
    if theirs.value("cosine_min_lr_ratio") and theirs.value("lr_scheduler") in (None, "cosine"):
        keys = ("lr_scheduler", "cosine_min_lr_ratio")
        carry(theirs, found, keys, "train.sft.lr_scheduler_type", "cosine_with_min_lr")
        rate = {"min_lr_rate": theirs.value("cosine_min_lr_ratio")}
        carry(theirs, found, "cosine_min_lr_ratio", "train.sft.lr_scheduler_kwargs", rate)
    leave(theirs, found, "cosine_min_lr_ratio", "not needed: it has no effect without lr_scheduler: cosine")
    best = tuple(key for key in ("load_best_model_at_end", "early_stopping_patience") if theirs.value(key))
    if best:
        carry(theirs, found, best, "train.keep", "best")
    often, steps, epochs = (theirs.value(key) for key in ("evals_per_epoch", "eval_steps", "num_epochs"))
    if often and often != 1 and epochs and not theirs.value("max_steps"):
        carry(theirs, found, "evals_per_epoch", "train.sft.eval_strategy", "steps")
        share = round(1 / (often * epochs), 6)
        carry(theirs, found, ("evals_per_epoch", "num_epochs"), "train.sft.eval_steps", share, "share of all steps")
    elif steps:
        carry(theirs, found, "eval_steps", "train.sft.eval_strategy", "steps")
        carry(theirs, found, "eval_steps", "train.sft.eval_steps")
    else:
        leave(theirs, found, "evals_per_epoch", ONCE)
    leave(theirs, found, "eval_strategy", ONCE)


def _template(theirs: Theirs, found: Found) -> None:
    name = theirs.value("base_model")
    is_folder = str(name).startswith((".", "/", "~"))
    carry(theirs, found, "base_model", "base.source", "folder" if is_folder else "hub")
    carry(theirs, found, "base_model", "base.folder" if is_folder else "base.id")
    revision = theirs.value("revision_of_model") or theirs.value("model_revision")
    if isinstance(revision, str) and re.fullmatch(r"[0-9a-f]{40}", revision):
        key = "revision_of_model" if theirs.value("revision_of_model") else "model_revision"
        carry(theirs, found, key, "base.revision")
    if theirs.value("chat_template") == "tokenizer_default":
        leave(theirs, found, "chat_template", "not needed: the model's own template is always used")
    leave(theirs, found, "chat_template", TEMPLATE)
    leave(
        theirs,
        found,
        "chat_template_jinja",
        "other meaning: save it in data/templates, and name it in base.chat_template",
    )
    special = theirs.value("special_tokens") or {}
    if special.get("eos_token"):
        carry(theirs, found, "special_tokens", "base.stop_token", special["eos_token"])
    rest = {
        name: token
        for name, token in special.items()
        if name not in ("eos_token", "pad_token", "bos_token", "unk_token")
    }
    if rest:
        found.left["special_tokens." + ", ".join(rest)] = "unsupported: the vocabulary does not grow"
    elif special and not special.get("eos_token"):
        leave(
            theirs,
            found,
            "special_tokens",
            "not needed: the tokenizer's own are used, and padding is never in the loss",
        )


def _dataset(theirs: Theirs, found: Found, dataset: dict[str, Any]) -> None:
    place, kind = str(dataset.get("path")), dataset.get("type")
    files = dataset.get("data_files")
    local = [files] if isinstance(files, str) else list(files or [])
    places = local if dataset.get("path") in ("json", "csv", "parquet", "text") and local else [place]
    legacy = {"role": dataset.get("message_field_role"), "content": dataset.get("message_field_content")}
    names = {key: name for key, name in legacy.items() if name} | (dataset.get("message_property_mappings") or {})
    columns: dict[str, str | None]
    if isinstance(kind, dict):
        columns = {
            "instruction": kind.get("field_instruction") or "instruction",
            "input": kind.get("field_input"),
            "output": kind.get("field_output") or "output",
            "system": kind.get("field_system"),
        }
        row_format = "alpaca"
        found.left[f"datasets: {place}: type"] = IS_TEMPLATE
    elif kind == "chat_template":
        field = dataset.get("field_messages") or "messages"
        row_format = "sharegpt" if names.get("role") == "from" else "messages"
        columns = {"conversations" if row_format == "sharegpt" else "messages": field}
        if {names.get("role", "role"), names.get("content", "content")} - {"role", "content", "from", "value"}:
            found.left[f"datasets: {place}: message_property_mappings"] = (
                "unsupported: a message is role and content, or from and value; rename the keys in the rows"
            )
    elif kind in ("completion", "pretrain"):
        row_format, columns = "text", {"text": dataset.get("field") or "text"}
    elif str(kind).partition(".")[0] in ("alpaca", "alpaca_chat", "alpaca_w_system"):
        row_format, columns = "alpaca", {"instruction": "instruction", "input": "input", "output": "output"}
        found.left[f"datasets: {place}: type"] = IS_TEMPLATE
    else:
        found.used.add("datasets")
        found.left[f"datasets: {place}: type"] = f"unsupported: {kind}: rewrite the rows in a format of docs/data.md"
        return
    for one in places:
        note_rows(theirs, found, "datasets", one, row_format, columns, dataset.get("revision"))
    for key, reason in (
        ("split", first_rows(dataset.get("split"))),
        ("name", "other meaning: import that file of the dataset with FILE="),
        ("shards", "unsupported: `make import LIMIT=` draws a sample"),
        ("chat_template", TEMPLATE if dataset.get("chat_template") != "tokenizer_default" else None),
        (
            "roles_to_train",
            None if dataset.get("roles_to_train") in (["assistant"], ["gpt"]) else "unsupported: answers only",
        ),
        (
            "train_on_eos",
            None
            if dataset.get("train_on_eos") in ("turn", "all")
            else "unsupported: every answer's end is in the loss",
        ),
        ("message_field_training_detail", "unsupported: a whole message is in the loss or not"),
        ("split_thinking", "other meaning: reasoning is a key of its own in a message (docs/data.md)"),
        ("drop_system_message", "unsupported: delete the messages in the rows"),
        ("trust_remote_code", "unsupported: no code of a dataset is ever run"),
    ):
        if reason and dataset.get(key) not in OFF:
            found.left[f"datasets: {place}: {key}"] = reason
