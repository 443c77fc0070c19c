"""Summary: what a run made, in the terminal; of one that failed, the stage and the end of its log."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from stages.common import files
from stages.report.gates import GATES
from tools import summary

RUN = "20260101-000000"


@pytest.fixture
def finished(compared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """A folder with the metrics of a real run, and logs of the stages that are named, with their exit codes."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(compared, "metrics", dirs_exist_ok=True)
    write_verdicts()

    def write(console: str = "", **codes: int) -> Path:
        Path("logs").mkdir()
        Path("logs/latest.txt").write_text(RUN + "\n", encoding="utf-8")
        for place, (name, code) in enumerate(codes.items()):
            folder = Path("logs", RUN, name)
            folder.mkdir(parents=True)
            facts = {"exit_code": code, "seconds": 61.4, "started": f"2026-01-01T00:0{place}:00Z"}
            (folder / "runtime.json").write_text(json.dumps(facts), encoding="utf-8")
            (folder / "console.log").write_text(console, encoding="utf-8")
        return tmp_path

    return write


def write_verdicts(*failed: str) -> None:
    known = {"value": 0.5, "limit": 0.5, "bound": "min", "margin": 0.0, "reason": "a test"}
    verdicts = {name: known | {"passed": name not in failed} for name in GATES}
    files.write_json(Path("metrics/gates.json"), verdicts)


def show(*arguments: str) -> Result:
    return CliRunner().invoke(summary.main, arguments)


def test_rows_scores_and_stages_are_those_of_the_run(finished: Callable[..., Path]) -> None:
    finished(train=0, awq=0)
    done = show()
    assert done.exit_code == 0, done.output
    lines = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    rows = files.read_json(Path("metrics/preprocess.json"))
    assert lines["rows"].startswith(f"{rows['rows_read']} read, {rows['rows_kept']} kept")
    scores: dict[str, Any] = files.read_json(Path("metrics/eval/awq.json"))
    assert f"awq {scores['perplexity']:.4g}" in lines["perplexity"]
    assert (lines["gates"], lines["time"]) == (f"{len(GATES)} of {len(GATES)} passed", "train 61 s, awq 61 s")
    assert lines["next"].endswith("`make serve`")


def test_a_failed_gate_is_named_and_so_is_the_command_that_explains_it(finished: Callable[..., Path]) -> None:
    finished()
    write_verdicts("awq_kept")
    done = show()
    assert f"{len(GATES) - 1} of {len(GATES)} passed; FAILED: awq_kept" in done.stdout
    assert "make gate" in done.stdout
    assert "nothing ran: every stage was up to date" in done.stdout


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("gates", "<<<<<<< HEAD\n", "metrics/gates.json:1: git's conflict markers"),
        ("gates", "{}", "metrics/gates.json: not the gates of this code ("),
        ("gates", "[]", "metrics/gates.json: not a JSON object; "),
        ("awq", "", "metrics/awq.json: empty; "),
        ("train", "{}", "metrics: no `eval_loss`: not the metrics of this code; run `make repro`"),
        ("train", '{"eval_loss": "low"}', "metrics: Unknown format code 'g' "),
    ],
)
def test_damaged_metrics_are_one_line(finished: Callable[..., Path], name: str, text: str, message: str) -> None:
    finished()
    Path("metrics", f"{name}.json").write_text(text, encoding="utf-8")
    done = show()
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.startswith(f"Error: {message}")
    assert done.stderr.count("\n") == 1


def test_stages_of_an_earlier_run_are_left_out(finished: Callable[..., Path]) -> None:
    finished(train=0, awq=0)
    assert "awq 61 s" in show("--since", "1767225660").stdout  # 2026-01-01T00:01:00Z
    assert "train 61 s" not in show("--since", "1767225660").stdout


def test_of_a_stage_that_failed_the_end_of_its_log_is_shown_without_bars(finished: Callable[..., Path]) -> None:
    finished("first\n 10%|#   | 1/10\r 20%|##  | 2/10\nError: data/raw: no data files\n", base=0, preprocess=1)
    done = show("--code", "255")
    assert done.exit_code == 255
    assert "preprocess failed (exit code 1) after 61 s" in done.stderr
    assert f"logs/{RUN}/preprocess/console.log" in done.stderr
    assert "  Error: data/raw: no data files\n" in done.stderr
    assert "10%" not in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("code", [143, -9])
def test_a_stage_that_was_stopped_did_not_fail(finished: Callable[..., Path], code: int) -> None:
    finished("step 5\n", train=code)
    done = show("--code", "1")
    assert done.stderr == "\ntrain was stopped after 61 s; the same command goes on from there\n"


def test_where_no_stage_began_only_the_exit_code_stays(finished: Callable[..., Path]) -> None:
    finished(train=1)
    done = show("--code", "3", "--since", "1767229200")
    assert (done.exit_code, done.output) == (3, "")
