"""Which models were trained, calibrated or scored on a row, as far as dvc.lock can prove it."""

from collections.abc import Iterator

from tools.common.dvc_lock import DvcLock
from tools.common.manifest import MANIFEST, Record

# How a model comes from a train row: the stage, its out, one of its deps, the stage that writes that dep, in words.
CHAIN = (
    ("train", "models/adapter", "data/prepared/train.arrow", "preprocess", "trained on it"),
    ("merge", "models/merged", "models/adapter", "train", "base with that adapter"),
    ("awq", "models/awq", "models/adapter", "train", "base with that adapter, quantised"),
)
# In runs of earlier versions, where awq read the merged model.
EARLIER_AWQ = ("awq", "models/awq", "models/merged", "merge", "that merged model, quantised")


def models(record: Record, lock: DvcLock) -> Iterator[tuple[str, str]]:
    """Yield the models that were trained, calibrated or scored on a row, with their hashes."""
    if not lock.entry("preprocess", "outs", MANIFEST):
        yield "models", f"unknown: dvc.lock does not have {MANIFEST}; run `dvc repro`"
    elif lock.rev is None and not lock.holds(MANIFEST):
        yield "models", f"unknown: {MANIFEST} is not the one in dvc.lock; run `dvc repro`"
    elif record["outcome"] == "train":
        yield from trained(record, lock)
    elif record["outcome"] == "val":
        yield "models", "none is trained on it"
        yield from scored(record, lock)
    else:
        original = (
            f"; `make trace ROW={record['duplicate_of']}` shows the row that is kept"
            if record["duplicate_of"]
            else ""
        )
        yield "models", f"none is trained on it{original}"


def trained(record: Record, lock: DvcLock) -> Iterator[tuple[str, str]]:
    """Follow a train row through dvc.lock, as long as each stage ran on what the stage before it wrote."""
    has_earlier = lock.entry("awq", "deps", "models/merged")
    for stage, model, source, maker, words in (*CHAIN[:2], EARLIER_AWQ if has_earlier else CHAIN[2]):
        out = lock.entry(stage, "outs", model)
        if not lock.used(stage, source, maker):
            state = f"made from another {source} than this one" if out else "not made"
            yield model, state if lock.rev else f"{state}; run `dvc repro {stage}`"
            return
        calibrated = record["calibration"] and lock.used(stage, "data/prepared/calibration.", "preprocess")
        yield model, f"{words}{', calibrated on this row' if calibrated else ''}; md5 {out['md5']}"


def scored(record: Record, lock: DvcLock) -> Iterator[tuple[str, str]]:
    """Yield the models that are scored on a val row: eval takes the first `eval.rows` of them."""
    for model in ("base", "merged", "awq"):
        stage = f"eval@{model}"
        if lock.used(stage, "data/prepared/val.", "preprocess"):
            limit = lock.stages[stage]["params"]["params.yaml"]["eval.rows"]
            skipped = f"not scored on it: eval.rows takes the first {limit} val rows"
            yield f"models/{model}", skipped if record["position"] >= limit else "scored on it"
