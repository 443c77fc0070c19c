"""`make gate` in a repository with models and a run: what it refuses, each in one line."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from proving import write
from recorded import run

from tools import gate

pytestmark = pytest.mark.slow  # DVC records the runs

CONFLICT = "<<<<<<< HEAD\n{}\n=======\n{}\n>>>>>>> other\n"
GATES, MERGED = Path("metrics/gates.json"), Path("metrics/eval/merged.json")
LOCK, PARAMS = Path("dvc.lock"), Path("params.yaml")


def ask() -> Result:
    return CliRunner().invoke(gate.main)


def refused() -> str:
    """Run the command, which must end with one line and no table."""
    done = ask()
    assert (done.exit_code, done.stdout) == (1, ""), done.output
    assert isinstance(done.exception, SystemExit)  # a message, no traceback
    assert done.stderr.startswith("Error: ")
    assert done.stderr.count("\n") == 1
    return done.stderr.removeprefix("Error: ").rstrip("\n")


def replaced(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    write(path, text.replace(old, new, 1))


def folder_in_place() -> None:
    MERGED.unlink()
    MERGED.mkdir()


def other_value(verdicts: Path) -> None:
    found = json.loads(verdicts.read_text(encoding="utf-8"))
    found["awq_kept"]["value"] = "high"
    write(verdicts, json.dumps(found))
    run(Path.cwd(), "dvc", "commit", "--force", "--quiet", "report")


def unknown_verdict(verdicts: Path) -> None:
    found = json.loads(verdicts.read_text(encoding="utf-8"))
    found["of_old"] = found.pop("awq_size_ratio")
    write(verdicts, json.dumps(found))
    run(Path.cwd(), "dvc", "commit", "--force", "--quiet", "report")


# What is broken, and how the message begins.
BROKEN: dict[str, tuple[Callable[[], object], str]] = {
    "no lock": (LOCK.unlink, "dvc.lock: no such file or folder; run `make repro` first"),
    "no metrics": (MERGED.unlink, "metrics/eval/merged.json: no such file or folder; run `make repro` first"),
    "no verdicts": (GATES.unlink, "metrics/gates.json: no such file or folder; run `make repro` first"),
    "no params": (PARAMS.unlink, "params.yaml: no such file; run from the repository root"),
    "a model is missing": (
        lambda: shutil.rmtree("models/merged"),
        "models/merged: no such folder; `dvc checkout --force models/merged` restores it, or `make repro` judges it",
    ),
    "metrics in a merge": (
        lambda: write(MERGED, CONFLICT.format(MERGED.read_text(encoding="utf-8"), "{}")),
        "metrics/eval/merged.json:1: git's conflict markers: a merge is half done; choose a side, "
        "then run `make repro`",
    ),
    "params in a merge": (
        lambda: replaced(PARAMS, "gates:\n", "<<<<<<< HEAD\ngates:\n=======\ngates:\n>>>>>>> other\n"),
        "params.yaml:",
    ),
    "the lock in a merge": (
        lambda: replaced(LOCK, "stages:\n", "stages:\n<<<<<<< HEAD\n"),
        "dvc.lock:3: git's conflict markers",
    ),
    "cut off": (
        lambda: write(MERGED, MERGED.read_text(encoding="utf-8")[:40]),
        "metrics/eval/merged.json:",
    ),
    "empty metrics": (lambda: write(MERGED, ""), "metrics/eval/merged.json: empty; `make repro` writes it again"),
    "a list": (lambda: write(MERGED, "[1]"), "metrics/eval/merged.json: not a JSON object; "),
    "NaN": (
        lambda: write(MERGED, '{"exact_match": NaN}'),
        "metrics/eval/merged.json: not JSON: NaN is no number; `make repro` writes it again",
    ),
    "a folder": (
        folder_in_place,
        "metrics/eval/merged.json: cannot be read (Is a directory); ",
    ),
    "no UTF-8": (lambda: MERGED.write_bytes(b'{"a": "\xff"}'), "metrics/eval/merged.json: not UTF-8; "),
    "an empty lock": (lambda: write(LOCK, ""), "dvc.lock: no dvc.lock, as it lacks stages "),
    "a list in the lock": (lambda: write(LOCK, "stages: [1]\n"), "dvc.lock: no dvc.lock, as it lacks stages "),
    "no YAML in the lock": (lambda: write(LOCK, "stages: {\n"), "dvc.lock:2: not YAML: "),
    "an unknown gate": (
        lambda: replaced(PARAMS, "gates:\n", "gates:\n  awq_kep: null\n"),
        "params.yaml: gates.awq_kep: unknown key; did you mean awq_kept?",
    ),
    "NaN as a limit": (lambda: replaced(PARAMS, "min: 0.9,", "min: .nan,"), "params.yaml: gates.awq_kept.min: "),
    "verdicts on other gates": (
        lambda: unknown_verdict(GATES),
        "metrics/gates.json: not the gates of this code (awq_size_ratio, of_old); run `make repro`",
    ),
    "a verdict of another type": (lambda: other_value(GATES), "metrics/gates.json: awq_kept.value: "),
    "metrics of another run": (
        lambda: replaced(MERGED, '"rows"', '"rows_of_old"'),
        "metrics/eval/merged.json: not the file of the run in dvc.lock; run `make repro`",
    ),
    "stale params": (
        lambda: replaced(PARAMS, "  samples: ", "  samples: 1"),
        "the pipeline is stale: awq (params awq.samples); run `make repro`",
    ),
    "stale code": (
        lambda: replaced(Path("stages/report/gates.py"), "import", "import "),
        "the pipeline is stale: report (stages/report modified); run `make repro`",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_missing_stale_or_damaged_is_one_line(proven: Path, case: str) -> None:
    spoil, message = BROKEN[case]
    spoil()
    try:
        assert refused().startswith(message)
    finally:
        if MERGED.is_dir():
            MERGED.rmdir()


def test_a_proven_model_passes(proven: Path) -> None:
    done = ask()
    assert (done.exit_code, done.stderr) == (0, ""), done.output
    assert "merge_kept" in done.stdout


def test_a_failed_gate_exits_1_below_its_table(proven: Path) -> None:
    found = json.loads(GATES.read_text(encoding="utf-8"))
    found["awq_kept"]["passed"] = False
    write(GATES, json.dumps(found))
    run(proven, "dvc", "commit", "--force", "--quiet", "report")
    done = ask()
    assert done.exit_code == 1
    assert "FAILED" in done.stdout
    assert done.stderr.startswith("awq_kept: see docs/awq.md")


@pytest.mark.parametrize("change", ["a byte", "a file more", "a file less", "several files"])
def test_other_bytes_than_those_judged_are_one_line(proven: Path, change: str) -> None:
    path = Path("models/awq", "more.json" if change == "a file more" else "model.safetensors")
    if change == "a byte":
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.chmod(0o644)
        path.write_bytes(content)
    elif change == "a file more":
        path.write_text("{}")
    else:
        path.unlink()
        if change == "several files":
            path.with_name("config.json").unlink()
    name = "models/awq/config.json (and 1 more)" if change == "several files" else str(path)
    assert refused() == (
        f"{name}: changed since it was judged; `dvc checkout --force models/awq` restores it, "
        "or `make repro` judges it"
    )
