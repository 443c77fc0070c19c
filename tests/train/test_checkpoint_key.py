"""The key of a training's checkpoints: what decides about the bytes starts from step 0, all else resumes.

Each test asks the real command, in a copy of the repository, where it starts, and ends it there.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from stage_runs import ROOT, write_params

from stages.common import tokens

pytestmark = pytest.mark.slow
PARAMS = {"train.machine.save_steps": 2, "train.sft.num_train_epochs": 100}


def run(tree: Path, until: Callable[[str], bool], **variables: str) -> str:
    """Run `python -m stages.train` in a folder, kill it when it has printed a certain line, and return that line."""
    environment = {name: value for name, value in os.environ.items() if name not in ("DVC_ROOT", "PYTHONPATH")}
    process = subprocess.Popen(
        [sys.executable, "-m", "stages.train"],
        cwd=tree,
        env=environment | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout
    lines = []
    for line in process.stdout:
        lines.append(line)
        if until(line):
            process.kill()
            break
    process.communicate()
    assert until(lines[-1]), "".join(lines)
    return lines[-1]


def starts(tree: Path, **variables: str) -> str:
    """Return the line that says where a training starts."""
    return run(tree, lambda line: line.startswith(("starting from step", "resuming from step")), **variables)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory, base: Path, prepared: Path) -> Path:
    """A copy of the repository in which a training was killed after a checkpoint."""
    tree = tmp_path_factory.mktemp("tree")
    write_params(tree, PARAMS)
    shutil.copyfile(ROOT / "dvc.yaml", tree / "dvc.yaml")
    (tree / "requirements").mkdir()
    shutil.copyfile(ROOT / "requirements" / "pipeline.txt", tree / "requirements" / "pipeline.txt")
    shutil.copytree(ROOT / "stages", tree / "stages", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(base, tree / "models" / "base")
    shutil.copytree(prepared, tree / "data" / "prepared")
    run(tree, lambda line: bool(list(tree.glob(".scratch/train/*/checkpoint-*"))))
    return tree


def add_line(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\n")


def drop_a_row(path: Path) -> None:
    table = tokens.table(path).slice(1).combine_chunks()
    path.unlink()  # the table is a map of the old file
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, tokens.SCHEMA) as out:
        out.write_table(table)


def change_a_param(path: Path) -> None:
    write_params(path.parent, PARAMS | {"train.sft.weight_decay": 0.125})


@pytest.mark.parametrize(
    ("file", "edit"),
    [
        ("stages/train/__main__.py", add_line),
        ("stages/train/callbacks.py", add_line),
        ("stages/common/files.py", add_line),
        ("requirements/pipeline.txt", add_line),
        ("params.yaml", change_a_param),
        ("models/base/tokenizer_config.json", add_line),
        ("data/prepared/train.arrow", drop_a_row),
    ],
)
def test_what_changes_the_bytes_starts_from_step_0(tree: Path, file: str, edit: Callable[[Path], None]) -> None:
    before = (tree / file).read_bytes()
    edit(tree / file)
    try:
        assert starts(tree).startswith("starting from step 0; checkpoints go to .scratch/train/")
    finally:
        (tree / file).unlink()
        (tree / file).write_bytes(before)


def test_all_else_resumes(tree: Path, tmp_path: Path) -> None:
    """Also in a temporary experiment, which is a copy of the checkout that DVC_ROOT names."""
    copy = tmp_path / "copy"
    shutil.copytree(tree, copy, ignore=shutil.ignore_patterns(".scratch"))
    for file in ("stages/merge/__main__.py", "stages/common/chat.py", "stages/common/scores.py", "dvc.yaml"):
        add_line(copy / file)
    (copy / "README.md").write_text("new\n", encoding="utf-8")
    write_params(copy, PARAMS | {"train.machine.save_steps": 3, "preprocess.seed": 8, "merge.rows": 1})
    assert starts(copy, DVC_ROOT=str(tree)).startswith("resuming from step ")
