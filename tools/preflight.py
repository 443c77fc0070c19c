"""Preflight: find before a stage starts what would end a later one, such as a key that a later stage lacks.

`docker/run` calls it before the first stage of a run, and again before preprocess and train, as the base model may
be new then. It reads all sections of params.yaml, and of the base model only the headers of its files, and so takes
less than a second. Run it alone with `python -m tools.preflight`.
"""

import functools
import json
import os
import re
import runpy
import shutil
import struct
import subprocess
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import NamedTuple

import click

from stages.awq.params import AwqParams
from stages.awq.schemes import choose_group_size
from stages.base.params import BaseParams
from stages.common.params import Section, load_params, read_yaml
from stages.compare.params import CompareParams
from stages.eval.params import EvalParams
from stages.merge.params import MergeParams
from stages.preprocess.params import PreprocessParams
from stages.preprocess.readers import KINDS
from stages.preprocess.sources import data_files
from stages.report.params import GatesParams
from stages.train.params import TrainParams

SECTIONS: dict[str, type[Section]] = {
    "base": BaseParams,
    "preprocess": PreprocessParams,
    "train": TrainParams,
    "merge": MergeParams,
    "awq": AwqParams,
    "eval": EvalParams,
    "compare": CompareParams,
    "gates": GatesParams,
}
# Bytes per weight that a training holds at least: the weights as train loads them; with `full` also the gradients and
# the two moments of AdamW.
GPU_BYTES = {"qlora": 0.5, "lora": 2, "full": 2 * 4}
CPU_BYTES = {"qlora": 4, "lora": 4, "full": 4 * 4}
BEFORE_ROWS = ("base", "preprocess")  # stages that start before the rows are read; base may take long
AWQ_SHARE = 0.25  # of 16-bit weights, at least
LAYERS = re.compile(r"\.(\d+|\w*layers?|h|blocks?)\.")


class Tensor(NamedTuple):
    """A tensor of a model as the header of its file tells it."""

    shape: list[int]
    size_bytes: int


@click.command(help=__doc__)
@click.option("--params", type=click.Path(path_type=Path), default="params.yaml", show_default=True)
@click.option("--base", type=click.Path(path_type=Path), default="models/base", show_default=True)
@click.option("--stage", default="", help="The stage that starts: what it needs is an error, not a note.")
def main(params: Path, base: Path, stage: str) -> None:
    sections = load_sections(params)
    check_stored(params)
    if stage in BEFORE_ROWS and not data_files(Path("data/raw"), required=False):
        raise click.ClickException(
            f"data/raw: no rows; `make import SOURCE=rows.csv` brings some, or put {', '.join(KINDS)} files in it"
        )
    tensors = read_headers(base)
    if not tensors:
        return
    check_groups(params, sections["awq"], tensors)
    notes = [*missing_memory(sections["train"], tensors), *missing_disk(base, tensors)]
    if notes and stage == "train":
        raise click.ClickException("\n".join(notes))
    for note in notes:
        click.echo(f"note: {note}", err=True)


def load_sections(params: Path) -> dict[str, Section]:
    """Read every section that a stage reads.

    Raises:
        click.ClickException: the problems of all of them, one per line.
    """
    found: dict[str, Section] = {}
    problems: list[str] = []
    for name, section in SECTIONS.items():
        try:
            found[name] = load_params(params, name, section)
        except click.ClickException as error:
            problems.append(error.message)
    if problems:
        raise click.ClickException("\n".join(dict.fromkeys(problems)))
    return found


def check_stored(params: Path) -> None:
    """Fail on a value that DVC would not read back from dvc.lock as it wrote it: its stage would be stale for good.

    DVC folds long text at 80 columns, and where it folds text with backslashes, another text may be read.

    Raises:
        click.ClickException: the keys of such values.
    """
    from dvc.utils.serialize import dumps_yaml, loads_yaml  # type: ignore[import-untyped]

    values, lost = read_yaml(params), []
    for stage in read_yaml(Path("dvc.yaml"))["stages"].values() if Path("dvc.yaml").exists() else ():
        for key in stage.get("do", stage).get("params", []):
            value = functools.reduce(lambda found, name: (found or {}).get(name), key.split("."), values)
            document = {"stages": {"stage": {"params": {"params.yaml": {key: value}}}}}  # the columns of dvc.lock
            lost += [] if loads_yaml(dumps_yaml(document)) == document else [key]
    if lost:
        raise click.ClickException(
            f"{params}: {', '.join(dict.fromkeys(lost))}: DVC does not read this text back from dvc.lock as it is, "
            "so the pipeline would be stale for good; write it shorter, or without backslashes or line breaks"
        )


def read_headers(folder: Path) -> dict[str, Tensor]:
    """Read name, shape and size of each tensor of a model, without its weights. What is damaged is left to base."""
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with path.open("rb") as file:
                header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
        except (OSError, ValueError, OverflowError, struct.error, MemoryError):
            return {}
        for name, facts in header.items():
            if name != "__metadata__":
                start, end = facts["data_offsets"]
                found[name] = Tensor(facts["shape"], end - start)
    return found


def check_groups(params: Path, awq: Section, tensors: dict[str, Tensor]) -> None:
    """Fail when awq.group_size does not fit the layers of the base model, which awq would find hours later.

    Raises:
        click.ClickException: see `choose_group_size`.
    """
    assert isinstance(awq, AwqParams)
    if not awq.group_size:
        return
    widths = {}
    for name, tensor in tensors.items():
        layer = name.removesuffix(".weight")
        if layer != name and len(tensor.shape) == 2 and LAYERS.search(layer) and not is_ignored(layer, awq.ignore):
            widths[layer] = tensor.shape[1]
    if widths:
        try:
            choose_group_size(widths, awq.group_size)
        except click.ClickException as error:
            raise click.ClickException(f"{params}: {error.message}") from None


def is_ignored(layer: str, ignore: list[str]) -> bool:
    """Whether awq.ignore names a layer, by the rule of compressed-tensors: a name, or a pattern after `re:`."""
    return any(re.match(entry[3:], layer) if entry.startswith("re:") else entry == layer for entry in ignore)


def missing_memory(train: Section, tensors: dict[str, Tensor]) -> Iterator[str]:
    """Say when the memory of this machine does not hold what a training needs at least."""
    assert isinstance(train, TrainParams)
    has_gpu = runpy.run_path("docker/runtime.py")["has_gpu"]() if Path("docker/runtime.py").exists() else False
    memory = gpu_memory() if has_gpu else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    weights = sum(prod(tensor.shape) for tensor in tensors.values())
    needed = weights * (GPU_BYTES if has_gpu else CPU_BYTES)[train.method]
    if memory and needed > memory:
        smaller = "a smaller model" if train.method != "full" else "train.method: lora, or a smaller model"
        where = "the GPU" if has_gpu else "this machine"
        yield (
            f"memory: train.method {train.method} of models/base ({weights / 1e9:.2f} G weights) needs more than "
            f"{needed / 1e9:.1f} GB, and {where} has {memory / 1e9:.1f} GB; use {smaller}"
        )


def gpu_memory() -> int:
    """Return the memory of the GPUs together in bytes, 0 if the driver does not tell."""
    command = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        asked = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return 0
    return sum(int(line) << 20 for line in asked.stdout.split() if line.isdigit())


def missing_disk(base: Path, tensors: dict[str, Tensor]) -> Iterator[str]:
    """Say when the models that are not written yet do not fit on the disk, even without a copy in the cache."""
    size = sum(tensor.size_bytes for tensor in tensors.values())
    shares = {"merged": 1.0, "awq": AWQ_SHARE}
    missing = {name: share * size for name, share in shares.items() if not (base.parent / name).exists()}
    free = shutil.disk_usage(base).free
    if sum(missing.values()) > free:
        folders = " and ".join(str(base.parent / name) for name in missing)
        yield (
            f"disk: {free / 1e9:.1f} GB are free, and {folders} need {sum(missing.values()) / 1e9:.1f} GB or more; "
            "free some, for example with `dvc gc --workspace`"
        )


if __name__ == "__main__":
    main()
