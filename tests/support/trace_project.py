"""Trace project: a small project that the real preprocess stage and DVC write, and how to read `make trace`."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from pyarrow import parquet
from stage_runs import ROOT, write_params

PARAMS = {
    "preprocess.calibration_rows": 3,
    "preprocess.empty_answer": "drop",
    "preprocess.max_length": 1000,
    "preprocess.over_length": "truncate",
    "preprocess.near_duplicates": "keep",
    "preprocess.max_dropped_share": 0.9,
    "preprocess.val_fraction": 0.3,
    "eval.rows": 4,
}
# Preprocess is the real stage. The stages after it only write something that depends on what they read.
PIPELINE = """\
stages:
  preprocess:
    cmd: {python} -m stages.preprocess
    deps: [data/raw, models/base]
    outs: [{outs}]
  train:
    cmd: cp data/prepared/train.arrow models/adapter
    deps: [data/prepared/train.arrow]
    outs: [models/adapter]
  merge:
    cmd: cat models/base/tokenizer.json models/adapter > models/merged
    deps: [models/adapter, models/base]
    outs: [models/merged]
  awq:
    cmd: cat data/prepared/calibration.arrow models/adapter > models/awq
    deps: [data/prepared/calibration.arrow, models/adapter]
    outs: [models/awq]
  eval:
    matrix:
      model: [base, merged, awq]
    cmd: wc -c data/prepared/val.arrow > ${{item.model}}.json
    deps: [data/prepared/val.arrow, 'models/${{item.model}}']
    params: [eval.rows]
    metrics: [{{'${{item.model}}.json': {{cache: false}}}}]
"""
PREPARED = [f"data/prepared/{name}.{kind}" for name in ("train", "val", "calibration") for kind in ("arrow", "jsonl")]
ROWS = [
    *(
        {"instruction": f"What is {word}?", "output": f"A {word} is a thing."}
        for word in ("ax", "boat", "cup", "dog", "elk")
    ),
    {"instruction": 'Say "hi"\nto Zoë.', "output": "Hi,   Zoë! Mail zoe@example.com"},  # 6
    {"instruction": "What is  ax?", "output": "A ax is a thing."},  # 7: a duplicate
    {"instruction": "Nothing to say.", "output": ""},  # 8
    *({"instruction": f"Count from {n} to {n * 7}.", "output": f"{n}, {n + 1}, and so on."} for n in range(20)),
]
LONG = [
    {"role": role, "content": f"{role} {turn} " + "long " * 20} for turn in range(4) for role in ("user", "assistant")
]


def write_rows(path: Path, given: list[Any]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in given), encoding="utf-8")


def run(folder: Path, *commands: str) -> None:
    """Run commands that must succeed, in the project."""
    places = {"PYTHONPATH": str(ROOT), "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    names = {f"GIT_{who}_{what}": "t@t" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    for command in commands:
        done = subprocess.run(
            command, shell=True, cwd=folder, env=os.environ | places | names, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr


def build(folder: Path, base: Path) -> None:
    """Write two versions of data and models: one committed and tagged `first`, one in the workspace."""
    write_params(folder, PARAMS)
    (folder / "models" / "base").mkdir(parents=True)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        shutil.copy(base / name, folder / "models" / "base")
    raw = folder / "data" / "raw"
    raw.mkdir(parents=True)
    write_rows(raw / "rows.jsonl", ROWS)
    write_rows(raw / "talk.jsonl", [{"messages": LONG}, 5, {"messages": LONG * 3}])
    outs = ", ".join([*PREPARED, "data/prepared/manifest.parquet"])
    (folder / "dvc.yaml").write_text(PIPELINE.format(python=sys.executable, outs=outs), encoding="utf-8")
    (folder / ".gitignore").write_text("/data/prepared\n/models\n/remote\n", encoding="utf-8")
    commit = "git add -A && git commit -qm '{0}' && git tag {0}"
    run(folder, "git init -q", "dvc init -q", "dvc config core.analytics false", "dvc remote add -q -d local remote")
    run(folder, commit.format("empty"), "dvc repro -q", "dvc push -q", commit.format("first"))
    write_rows(raw / "more.jsonl", [{"instruction": f"What is late {n}?", "output": "This."} for n in range(9)])
    run(folder, "dvc repro -q")


def pick(folder: Path, **wanted: Any) -> dict[str, Any]:
    """Return the first record of the manifest with these values."""
    records = parquet.read_table(folder / "data/prepared/manifest.parquet").to_pylist()
    return next(record for record in records if wanted.items() <= record.items())


def row_id(record: dict[str, Any]) -> str:
    return f"{record['file']}:{record['line']}"


def parts(output: str) -> list[tuple[str, str]]:
    """Read the output: name and text of every line."""
    return [(line[:14].rstrip(), line[16:]) for line in output.splitlines()]


def md5(folder: Path, path: str) -> str:
    """Return the hash of an out in dvc.lock."""
    text = (folder / "dvc.lock").read_text(encoding="utf-8")
    return text.partition("    outs:\n    - path: " + path + "\n")[2].split("md5: ")[1].split()[0]


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")
