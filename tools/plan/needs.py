"""Needs: what each stage will need, put together from params, model, rows and this machine."""

import hashlib
import math
import shutil
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import click

from stages.common import device, files
from stages.common.params import read_yaml
from tools.plan import base_model, disk, probe, rows, seconds
from tools.plan.base_model import Base
from tools.plan.fit import Training, packed_lengths
from tools.plan.memory import (
    LIBRARIES,
    Need,
    Shapes,
    base_need,
    later_needs,
    outline,
    quantised_weights,
    trained_outline,
    weight_count,
)
from tools.plan.rows import BYTES_PER_TOKEN, Lengths
from tools.plan.stale import CACHED, Action

KEPT = Path(".scratch/plan")
LONGEST_REFERENCE = 2000  # bytes of a row of answers in metrics/eval


class Model(NamedTuple):
    """The base model as the plan knows it: where from, its config, weights, bytes, and its shapes."""

    base: Base
    config: Any
    weights: int
    stored: float
    plain: Any


def find_model(params: Path, sections: dict[str, Any], action: Action, hardware: device.Device) -> Model:
    """Describe the base model; what was found for the same settings is kept in .scratch/plan.

    Raises:
        click.ClickException: see `describe_base`.
    """
    import transformers

    config = sections["base"]
    is_made = action.does == CACHED
    text = files.dump_json(config.model_dump()) + str(is_made and files.digest(Path("data/templates")))
    folder = KEPT / f"base-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    note = folder / "plan.json"
    if not is_made and note.exists():
        base = Base(folder, **files.read_json(note))
    else:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        try:
            base = base_model.describe_base(params, config, folder, is_made)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        if base.has_chat:  # else the hub may know more the next time
            files.write_json(note, {key: value for key, value in base._asdict().items() if key != "folder"})
    shapes = transformers.AutoConfig.from_pretrained(base.folder)
    plain = outline(shapes, hardware.dtype)
    weights = weight_count(plain)
    width = {"float32": 4, "bfloat16": 2, "float16": 2}.get(base.dtype or str(shapes.dtype).rpartition(".")[2], 2)
    stored = files.size_bytes(Path("models/base")) if is_made else weights * width
    return Model(base, shapes, weights, stored, plain)


def find_lengths(sections: dict[str, Any], action: Action, base: Base | None, raw: Path) -> Lengths:
    """Read the tokens of the rows: of the prepared ones where they are up to date."""
    config = sections["preprocess"]
    if action.does == CACHED:
        return rows.count_prepared(Path("data/prepared"))
    return rows.count_raw(config, base_model.load_chat(base) if base else None, raw)


def groups(lengths: list[int], size: int) -> list[list[int]]:
    """Split rows into batches, the longest first, as stages/common/batches.py does."""
    ordered = sorted(lengths, reverse=True)
    return [ordered[start : start + size] for start in range(0, len(ordered), size)]


def general_lengths(base: Base) -> list[int]:
    """Count the tokens of the general texts of eval."""
    file = Path("data/general/passages.jsonl")
    texts = [str(row.get("text", "")) for row in files.read_rows(file)] if file.exists() else []
    chat = base_model.load_chat(base)
    if chat is None:
        return [len(text.encode()) // BYTES_PER_TOKEN for text in texts]
    return [len(one.ids) for one in chat.tokenizer.encode_batch(texts, add_special_tokens=False)]


def task_batches(config: Any) -> int | None:
    """Count the batches of requests in tasks of our own; None where a task is one of the harness."""
    requests = 0
    for name in config.tasks:
        try:
            task = read_yaml(Path(name))
            sources = list(task["dataset_kwargs"]["data_files"].values())
            found = sum(len(files.read_rows(Path(source))) for source in sources)
        except (click.ClickException, LookupError, TypeError, ValueError, AttributeError, OSError):
            return None
        choices = 4 if task.get("output_type") == "multiple_choice" else 1
        requests += choices * min(found, config.task_rows or found)
    return math.ceil(requests / config.batch_size)


def find_shapes(model: Model, lengths: Lengths, sections: dict[str, Any], quantised: float) -> Shapes:
    """Find the batches that need most memory after training."""
    merge, awq, config = (sections[name] for name in ("merge", "awq", "eval"))
    compared = groups(lengths.val[: merge.rows], max(merge.batch_size, awq.batch_size))
    scored = groups(lengths.val[: config.rows], config.batch_size)
    general = groups(general_lengths(model.base), config.batch_size)
    first = compared[0] if compared else [1]
    losses = [(len(batch), batch[0], round(sum(batch) * lengths.in_loss)) for batch in scored[:1]]
    losses += [(len(batch), batch[0], sum(batch)) for batch in general[:1]]
    most = max(losses, key=lambda one: one[2], default=(1, 1, 1))
    answers = scored[0] if scored else [1]
    samples = lengths.calibration[: awq.samples]
    return Shapes(
        plain=model.plain,
        stored_bytes=model.stored,
        quantised=quantised,
        merge_batch=(len(first), first[0]),
        merge_loss=max(1, round(sum(first) * lengths.in_loss)),
        eval_batch=most[:2],
        eval_loss=max(1, most[2]),
        answers=(len(answers), answers[0] + config.max_new_tokens),
        calibration_tokens=sum(min(size, awq.max_seq_length) for size in samples),
    )


def make_training(
    params: Path, model: Model, lengths: Lengths, sections: dict[str, Any], hardware: device.Device
) -> Training:
    """Prepare the training, as the stage does.

    Raises:
        click.ClickException: see `make_configs`.
    """
    from stages.train.configs import make_configs

    train = sections["train"]
    machine = train.machine.model_copy(update={"report_to": []})
    # Also for `full`, as an adapter may fit where that does not.
    as_lora = train.model_copy(update={"machine": machine, "method": "lora"})
    lora, arguments = make_configs(params, as_lora, hardware)
    return Training(
        model.config, train, lora, arguments, lengths.train or [1], lengths.in_loss, model.stored, hardware
    )


def memory_needs(model: Model, training: Training, shapes: Shapes, sections: dict[str, Any]) -> dict[str, Need]:
    """Compute the memory of every stage, by its name; of eval also for the quantised model, `eval@awq`."""
    config = sections["base"]
    return {
        "base": base_need(config, model.weights, model.stored),
        "preprocess": Need(LIBRARIES["preprocess"]),
        "train": training.need(training.arguments.per_device_train_batch_size),
        **later_needs(shapes, training.device),
        "compare": Need(LIBRARIES["compare"]),
        "report": Need(LIBRARIES["report"]),
    }


def find_work(model: Model, lengths: Lengths, training: Training, sections: dict[str, Any]) -> seconds.Work:
    """Count the passes of each stage."""
    merge, awq, config = (sections[name] for name in ("merge", "awq", "eval"))
    arguments = training.arguments
    size = arguments.per_device_train_batch_size
    trained = packed_lengths(lengths.train, arguments.max_length) if arguments.packing else lengths.train
    steps = seconds.count_steps(len(trained), size * arguments.gradient_accumulation_steps, arguments)
    strategy = str(getattr(arguments.eval_strategy, "value", arguments.eval_strategy))
    evaluations = {"epoch": math.ceil(arguments.num_train_epochs), "no": 1}.get(
        strategy, steps // max(1, int(arguments.eval_steps or steps))
    )
    scored = groups(lengths.val[: config.rows], config.batch_size)
    rows_at_once = max(1, len(scored[0]) if scored else 1)  # in the forward pass that is measured
    return seconds.Work(
        steps=steps,
        accumulated=arguments.gradient_accumulation_steps,
        evaluated=evaluations * len(lengths.val) / rows_at_once,
        merge_batches=len(lengths.val[: merge.rows]) / rows_at_once,
        calibration_rows=len(lengths.calibration[: awq.samples]),
        eval_batches=2 * len(scored),
        answer_batches=len(scored),
        answer_tokens=config.max_new_tokens,
        task_rows=task_batches(config),
        stored_bytes=model.stored,
        raw_rows=lengths.raw_rows,
        seconds_per_row=lengths.seconds_per_row,
        download_bytes=model.base.download_bytes,
    )


def measure(model: Model, lengths: Lengths, training: Training, sections: dict[str, Any]) -> probe.Speed:
    """Measure the passes of the model on this machine."""
    import peft

    from stages.train.data import GroupedByLength

    awq, config = sections["awq"], sections["eval"]
    arguments, train = training.arguments, training.train
    size = arguments.per_device_train_batch_size
    trained = packed_lengths(lengths.train, arguments.max_length) if arguments.packing else training.lengths
    order = [trained[place] for place in GroupedByLength(trained, size, arguments.data_seed)]
    widest = [max(order[start : start + size]) for start in range(0, len(order), size)]
    scored = groups(lengths.val[: config.rows] or [1], config.batch_size)
    width = round(sum(batch[0] for batch in scored) / len(scored))
    samples = [min(one, awq.max_seq_length) for one in lengths.calibration[: awq.samples]] or [1]
    full = train.method == "full"
    return probe.measure_speed(
        model.config,
        train.attn_implementation,
        (min(size, len(order)), round(sum(widest) / len(widest))),
        (len(scored[0]), width),
        round(sum(samples) / len(samples)),
        (len(scored[0]), width),
        lambda plain: plain.requires_grad_(True) if full else peft.get_peft_model(plain, training.lora),
        training.device,
    )


def pretraining_seconds(sections: dict[str, Any], base: Base) -> float:
    """Measure some steps of the built-in model's training, and return the seconds of all; 0 for another model."""
    import transformers

    config = sections["base"]
    if config.source != "tiny":
        return 0.0
    from stages.base.tiny_model import pretrain

    tokenizer = transformers.AutoTokenizer.from_pretrained(base.folder)
    few, more = (config.tiny.model_copy(update={"steps": steps}) for steps in (2, 12))
    with base_model.quiet():
        found = [probe.seconds_of(partial(pretrain, params, tokenizer)) for params in (few, more)]
    return max(0.0, found[1] - found[0]) / (more.steps - few.steps) * config.tiny.steps


def written(model: Model, lengths: Lengths, training: Training, sections: dict[str, Any]) -> dict[str, Any]:
    """Compute what each stage writes, and the weights that awq quantises."""
    import torch

    dtype = {2: torch.bfloat16, 4: torch.float32}[round(model.stored / model.weights) if model.weights else 2]
    stored_as = outline(model.config, dtype)
    weights, quantised = quantised_weights(stored_as, sections["awq"])
    trained = trained_outline(model.config, training.train, training.lora, training.arguments, training.device)
    trainable = sum(one.numel() for one in trained.parameters() if one.requires_grad)
    merged = 4.0 * model.weights if sections["merge"].dtype == "float32" else model.stored
    answers = LONGEST_REFERENCE * min(len(lengths.val), sections["eval"].rows)
    return {
        "quantised": weights,
        **disk.written(model.stored, lengths.bytes, trainable, merged, quantised, answers),
    }
