"""Collect: the plan as one value, which is printed as a table or as JSON."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from stages.common import device
from tools.plan import disk, needs, probe, seconds
from tools.plan.fit import largest_size, taken, training_changes
from tools.plan.machine import Machine, read_machine
from tools.plan.memory import Need
from tools.plan.report import size
from tools.plan.stale import CACHED, RESTORED, RUNS, Action

RAW = Path("data/raw")
ENOUGH = 0.9  # of the memory: the rest is for the system, and for what an allocator keeps
BUSY = 1.5  # load per core
HALVES = 12  # of a batch, until it has one row


@dataclass
class Facts:
    """What is known of the run; empty where the base model is not known."""

    needs: dict[str, Need] = field(default_factory=dict)
    written: dict[str, Any] = field(default_factory=dict)
    times: dict[str, seconds.Time] = field(default_factory=dict)
    batch: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    about: dict[str, Any] = field(default_factory=dict)


def collect(
    params: Path, sections: dict[str, Any], actions: dict[str, Action], imports: float, measure: bool
) -> dict[str, Any]:
    """Collect what each stage will do and need.

    Args:
        params: the params file.
        sections: its sections.
        actions: what happens to each stage.
        imports: seconds that the libraries of train take to import.
        measure: whether to measure all times, and use no earlier run.

    Raises:
        click.ClickException: rows or settings are wrong; what only the network knows gives a warning instead.
    """
    hardware = device.choose()
    machine = read_machine(hardware)
    facts = Facts()
    if not measure:
        known = {name: seconds.earlier(name, params, RAW) for name in actions}
        facts.times = {name: time for name, time in known.items() if time}
    try:
        model = needs.find_model(params, sections, actions["base"], hardware)
    except click.ClickException as error:
        facts.warnings.append(f"{error.message}; memory, times and disk are not known")
    else:
        fill(facts, params, sections, actions, model, hardware, machine, imports)
    return assemble(facts, actions, hardware, machine)


def fill(
    facts: Facts,
    params: Path,
    sections: dict[str, Any],
    actions: dict[str, Action],
    model: needs.Model,
    hardware: device.Device,
    machine: Machine,
    imports: float,
) -> None:
    """Fill in what follows from the model and the rows."""
    lengths = needs.find_lengths(sections, actions["preprocess"], model.base, RAW)
    training = needs.make_training(params, model, lengths, sections, hardware)
    facts.written = needs.written(model, lengths, training, sections)
    shapes = needs.find_shapes(model, lengths, sections, facts.written.pop("quantised"))
    facts.needs = needs.memory_needs(model, training, shapes, sections)
    facts.about = {
        "model": model.base.known,
        "weights": model.weights,
        "rows": {name: len(getattr(lengths, name)) for name in ("train", "val", "calibration")},
        "tokens_train": sum(lengths.train),
        "longest_row": max(lengths.train, default=0),
        "rows_from": lengths.known,
        "download_bytes": model.base.download_bytes if actions["base"].does == RUNS else 0,
    }
    if model.base.download_bytes is None and actions["base"].does == RUNS:
        facts.warnings.append(
            "the size of the download is not known, as the hub cannot be asked: is this machine offline?"
        )
    warn_of_memory(facts, training, sections, actions, model, lengths, machine)
    unknown = [name for name, action in actions.items() if action.does == RUNS and name not in facts.times]
    if not unknown:
        return
    later = any(name.partition("@")[0] in ("train", "merge", "awq", "eval") for name in unknown)
    fits = all(taken(facts.needs[name]) < limit_of(machine) for name in ("merge", "train"))
    if later and not fits:
        facts.warnings.append("times are not measured, as the model does not fit")
        return
    nothing = probe.Speed(0, 0, 0, 0)
    speed = needs.measure(model, lengths, training, sections) if later else nothing
    pretraining = needs.pretraining_seconds(sections, model.base) if "base" in unknown else 0.0
    work = needs.find_work(model, lengths, training, sections)
    if work.task_rows is None:
        facts.warnings.append("eval.tasks: the time of tasks of the harness is not counted")
    estimated = seconds.estimate(work, speed, imports, pretraining)
    for name in unknown:
        facts.times[name] = seconds.Time(estimated[name.partition("@")[0]], "measured now")
    if machine.load > BUSY * machine.cores:
        facts.warnings.append(
            f"this machine is busy (load {machine.load:.1f} on {machine.cores} cores): it takes longer than that"
        )


def limit_of(machine: Machine) -> float:
    """Return the bytes that a stage may take of the memory that is short first."""
    return ENOUGH * (machine.gpu or machine.memory)


def warn_of_memory(
    facts: Facts,
    training: Any,
    sections: dict[str, Any],
    actions: dict[str, Action],
    model: needs.Model,
    lengths: Any,
    machine: Machine,
) -> None:
    """Find the largest batch that fits, and say what does not fit, and which settings would."""
    limit, kind = limit_of(machine), "the GPU" if machine.gpu else "this machine"
    whole = machine.gpu or machine.memory
    arguments = training.arguments
    rows = arguments.per_device_train_batch_size * arguments.gradient_accumulation_steps
    need = facts.needs["train"]
    facts.batch = {
        "device_batch_size": arguments.per_device_train_batch_size,
        "largest": largest_size(training.need, rows, limit),
        "rows_per_step": rows,
    }
    if taken(need) > limit:
        change = next(training_changes(training, rows, limit), None)
        better = f"set {change[0]} ({size(taken(change[1]))})" if change else "no setting helps; use a smaller model"
        facts.warnings.append(
            f"train does not fit: it needs {size(taken(need))}, and {kind} has {size(whole)}; {better}"
        )
    for stage in ("merge", "awq", "eval"):
        if taken(facts.needs[stage]) <= limit:
            continue
        text = f"{stage} does not fit: it needs {size(taken(facts.needs[stage]))}, and {kind} has {size(whole)}"
        facts.warnings.append(f"{text}; {smaller_batch(stage, sections, model, lengths, training, limit)}")
    if machine.gpu:
        return
    running = [facts.needs[name.partition("@")[0]].host for name, action in actions.items() if action.does == RUNS]
    if running and machine.available < max(running) <= limit:
        facts.warnings.append(
            f"memory: {size(machine.available)} of {size(machine.memory)} are free now, and a stage needs "
            f"{size(max(running))}; end other programs first"
        )


def smaller_batch(
    stage: str, sections: dict[str, Any], model: needs.Model, lengths: Any, training: Any, limit: float
) -> str:
    """Find the batch size of a stage with which it fits."""
    batch = sections[stage].batch_size
    for half in range(1, HALVES):
        smaller = max(1, batch >> half)
        changed = sections | {stage: sections[stage].model_copy(update={"batch_size": smaller})}
        if stage == "merge":  # the longest batch of the two counts
            changed |= {"awq": sections["awq"].model_copy(update={"batch_size": 1})}
        shapes = needs.find_shapes(model, lengths, changed, 0)
        found = needs.memory_needs(model, training, shapes, changed)[stage]
        if taken(found) <= limit:
            return f"set {stage}.batch_size: {smaller} ({size(taken(found))})"
        if smaller == 1:
            break
    return "no setting helps; use a smaller model"


def assemble(facts: Facts, actions: dict[str, Action], hardware: device.Device, machine: Machine) -> dict[str, Any]:
    """Put stages, totals and warnings together."""
    link, cache = disk.cache_links()
    copies = 1 if link == "hardlink" else 2
    stages = []
    for name, action in actions.items():
        stage = name.partition("@")[0]
        time, need = facts.times.get(name), facts.needs.get(name, facts.needs.get(stage))
        left = facts.written.get(stage)
        runs = action.does == RUNS
        entry: dict[str, Any] = {"stage": name, "does": action.does, "reason": action.reason}
        entry["seconds"] = round(time.seconds, 1) if time and runs else 0 if not runs else None
        entry["seconds_from"] = time.known if time and runs else None
        entry["host_memory_bytes"] = round(need.host) if need and runs else None
        entry["gpu_memory_bytes"] = round(need.gpu) if need and runs else None
        written = 0 if action.does == CACHED else left and left.kept * (copies if runs else copies - 1)
        entry["disk_bytes"] = None if written is None else round(written)
        entry["scratch_bytes"] = round(left.scratch) if left and runs else 0
        stages.append(entry)
    running = [one for one in stages if one["does"] == RUNS]
    download = facts.about.pop("download_bytes", None)
    total = {
        "seconds": added(running, "seconds"),
        "host_memory_bytes": max((one["host_memory_bytes"] or 0 for one in running), default=0),
        "gpu_memory_bytes": max((one["gpu_memory_bytes"] or 0 for one in running), default=0),
        "disk_bytes": added(stages, "disk_bytes"),
        "scratch_bytes": max((one["scratch_bytes"] for one in stages), default=0),
        "download_bytes": download,
        "disk_free_bytes": disk.free_bytes(cache),
        "memory_bytes": machine.memory,
        "gpu_bytes": machine.gpu,
    }
    needed = (total["disk_bytes"] or 0) + total["scratch_bytes"] + (download or 0)
    warnings = list(facts.warnings)
    if needed > total["disk_free_bytes"]:
        warnings.append(
            f"disk: {size(total['disk_free_bytes'])} are free at {cache}, and the run needs {size(needed)}; "
            "free some, for example with `dvc gc --workspace`"
        )
    if copies == 2 and any(one["does"] in (RUNS, RESTORED) for one in stages):
        warnings.append(
            f"disk: the cache {cache} cannot share files with the checkout by hard links: each is there twice"
        )
    return {
        "device": f"{hardware.name}, {hardware.dtype}",
        "device_reason": hardware.reason,
        "about": facts.about,
        "stages": stages,
        "total": total,
        "batch": facts.batch,
        "warnings": warnings,
    }


def added(stages: list[dict[str, Any]], key: str) -> float | None:
    """Add up a value of all stages; None if it is not known of one."""
    values = [one[key] for one in stages]
    return None if None in values else round(sum(values), 1)
