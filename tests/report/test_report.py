"""Report: one verdict per gate from the metrics, and the hashes of the files that are there."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from recorded import LIMITS, METRICS, ON_THE_LIMIT, write_metrics

from stages.report import __main__ as stage
from stages.report.figures import METRICS as METRIC_FILES
from stages.report.fingerprints import FOLDERS
from stages.report.gates import GATES


@pytest.fixture
def run(params: Callable[..., Path], workspace: Path, awq: Path) -> Path:
    """A finished run: the session's data and models, with the metrics of tests/support/recorded.py."""
    folder = link(params(LIMITS).parent, workspace)
    write_metrics(folder, {})
    return folder


def link(folder: Path, workspace: Path) -> Path:
    """Link the session's data and models into a folder."""
    for name in ("data", "requirements", *(f"models/{name}" for name in FOLDERS)):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).symlink_to(workspace / name)
    return folder


def read(folder: Path, name: str) -> dict[str, Any]:
    return json.loads((folder / "metrics" / f"{name}.json").read_text(encoding="utf-8"))


def test_the_verdicts_are_written_and_a_failed_gate_is_named(run: Path, succeed: Callable[..., str]) -> None:
    assert succeed(stage.main) == f"{len(GATES)} of {len(GATES)} gates passed\n"
    assert {name: verdict["value"] for name, verdict in read(run, "gates").items()} == ON_THE_LIMIT
    write_metrics(run, {"merge.kl_mean": 0.00101})
    assert succeed(stage.main).splitlines() == [
        f"{len(GATES) - 1} of {len(GATES)} gates passed",
        "  failed: merge_kl_mean; `make gate` says what to check",
    ]
    assert [name for name, verdict in read(run, "gates").items() if not verdict["passed"]] == ["merge_kl_mean"]


@pytest.mark.slow
def test_the_lineage_has_the_hashes_that_md5sum_and_sha256sum_print(run: Path, succeed: Callable[..., str]) -> None:
    succeed(stage.main)
    lineage = read(run, "lineage")
    names = ["data/raw/rows.jsonl", "requirements/pipeline.txt"]
    for model in FOLDERS:
        files = (run / "models" / model).rglob("*")
        names += sorted(file.relative_to(run).as_posix() for file in files if file.is_file())
    assert [entry["path"] for entry in lineage["files"]] == names
    for kind in ("md5", "sha256"):
        done = subprocess.run([f"{kind}sum", *names], cwd=run, capture_output=True, text=True, check=True)
        assert [f"{entry[kind]}  {entry['path']}" for entry in lineage["files"]] == done.stdout.splitlines()
    assert [entry["size_bytes"] for entry in lineage["files"]] == [(run / name).stat().st_size for name in names]
    manifest = json.loads((run / "models" / "base" / "manifest.json").read_text(encoding="utf-8"))
    revision = manifest["revision"]
    assert lineage["base"] == {"id": "lockstep/tiny", "revision": revision, "architecture": "Qwen2ForCausalLM"}
    assert (lineage["rows"]["read"], lineage["rows"]["train"], lineage["rows"]["val"]) == (1000, 900, 75)
    assert "commit" not in lineage


def test_reporting_again_gives_the_same_bytes(run: Path, succeed: Callable[..., str]) -> None:
    outputs = ("metrics/gates.json", "metrics/lineage.json")
    contents = []
    for _ in range(2):
        succeed(stage.main)
        contents.append([(run / name).read_bytes() for name in outputs])
    assert contents[0] == contents[1]


def test_a_real_run_is_reported(
    workspace: Path, scored: Path, params: Callable[..., Path], succeed: Callable[..., str]
) -> None:
    folder = link(params().parent, workspace)
    write_metrics(folder, {})  # what this small run does not measure
    shutil.copytree(scored, folder / "metrics", dirs_exist_ok=True)
    for name in ("base", "merged", "awq"):
        path = folder / "metrics" / "eval" / f"{name}.json"
        measured = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(json.dumps(METRICS[f"eval/{name}"] | measured), encoding="utf-8")
    succeed(stage.main)
    verdicts = read(folder, "gates")
    assert verdicts.keys() == GATES.keys()
    assert verdicts["merge_kl_mean"]["passed"]
    assert verdicts["awq_perplexity_ratio"]["passed"]
    assert not verdicts["merged_exact_match_gain"]["passed"]


def without_kl_mean(run: Path) -> None:
    path = run / "metrics" / "merge.json"
    path.write_text(json.dumps({key: value for key, value in METRICS["merge"].items() if key != "kl_mean"}))


# How a good run is spoiled, and the message.
MESSAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "a metric without a key": (
        without_kl_mean,
        "metrics: no `kl_mean`, which the gate merge_kl_mean needs; run `dvc repro` first",
    ),
    "lineage cannot be written": (
        lambda run: (run / "lineage.json").mkdir(),
        "lineage.json: cannot be written (Is a directory); check the folder's owner and free space",
    ),
}


@pytest.mark.parametrize("case", MESSAGES)
def test_a_problem_is_named_and_no_verdict_is_written(run: Path, fail: Callable[..., str], case: str) -> None:
    spoil, message = MESSAGES[case]
    spoil(run)
    assert fail(stage.main, "--lineage", "lineage.json") == message
    assert not (run / "metrics" / "gates.json").exists()


@pytest.mark.parametrize(
    "name",
    [
        *(f"metrics/{name}.json" for name in METRIC_FILES),
        *(f"models/{name}" for name in FOLDERS),
        "requirements/pipeline.txt",
    ],
)
def test_a_missing_input_is_named(run: Path, fail: Callable[..., str], name: str) -> None:
    (run / name.replace("/pipeline.txt", "")).unlink()
    assert fail(stage.main) == f"{name}: no such file or folder; run `dvc repro` first"
    assert not (run / "metrics" / "gates.json").exists()
