"""Preprocess: full runs of the stage: golden rows byte by byte, the same bytes however rows are stored, real rows.

tests/preprocess/golden holds raw files and the expected output. The tokenizer of most tests has one token per byte:
lengths can be counted by hand.
"""

import gzip
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import accounting
import pyarrow as pa
import pytest
from preparing import (
    GOOD,
    METRICS,
    PREPARED,
    TEXTS,
    Contents,
    Prepare,
    Rows,
    alpaca,
    counts,
    lines,
    manifest,
    outputs,
    talk,
)
from pyarrow import parquet
from stage_runs import ROOT, ROWS

from stages.preprocess import __main__ as stage

GOLDEN = ROOT / "tests" / "preprocess" / "golden"
# The golden rows were made with these: one row too long, two without an answer, a third of the rows for val.
GOLDEN_PARAMS = {
    "preprocess.val_fraction": 0.3,
    "preprocess.calibration_rows": 4,
    "preprocess.max_length": 200,
    "preprocess.empty_answer": "drop",
    "preprocess.control_characters": "keep",
    "preprocess.max_dropped_share": 0.4,
    "preprocess.files": {
        "prompts.*": {"columns": {"prompt": "question", "completion": "answer"}},
        "notes.txt": {"sample_by": "paragraph"},
    },
}


def golden() -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((GOLDEN / "raw").iterdir())}


def test_golden_rows(prepare: Prepare) -> None:
    folder = prepare(golden(), GOLDEN_PARAMS)
    assert {path.name for path in (folder / "data" / "prepared").iterdir()} == set(PREPARED)
    for name in TEXTS:
        assert (folder / "data" / "prepared" / name).read_bytes() == (GOLDEN / "prepared" / name).read_bytes(), name
    for name in METRICS:
        assert (folder / "metrics" / name).read_bytes() == (GOLDEN / "metrics" / name).read_bytes(), name
    assert lines(manifest(folder)) == (GOLDEN / "prepared" / "manifest.jsonl").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "change",
    [
        lambda text: b"\xef\xbb\xbf" + text,
        lambda text: text.replace(b"\n", b"\r\n"),
        lambda text: b"\n\n" + text + b"\n\n",
        lambda text: text.removesuffix(b"\n"),
    ],
    ids=["byte order mark", "CRLF", "blank lines", "no newline at the end"],
)
def test_the_spelling_of_a_file_changes_no_row(prepare: Prepare, change: Callable[[bytes], bytes]) -> None:
    plain = {name: data for name, data in golden().items() if name.endswith((".json", ".jsonl"))}
    changes = GOLDEN_PARAMS | {"preprocess.files": {}}
    before = outputs(prepare(plain, changes))
    after = outputs(prepare({name: change(data) for name, data in plain.items()}, changes))
    for name in (*PREPARED[:6], "lengths.csv", "outcomes.csv"):
        assert after[name] == before[name], name


def as_parquet(values: Rows) -> bytes:
    sink = pa.BufferOutputStream()
    parquet.write_table(pa.Table.from_pylist(values), sink)
    return sink.getvalue().to_pybytes()


@pytest.mark.slow
def test_every_format_and_file_type_gives_the_same_rows(prepare: Prepare) -> None:
    texts = [(f"Is {number} a number?", "yes") for number in range(20)]
    instructions = [alpaca(*text) for text in texts]
    messages = [talk(*text) for text in texts]
    sharegpt = [
        {"conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]}
        for question, answer in texts
    ]
    csv = "prompt,completion\n" + "".join(f'"{question}",{answer}\n' for question, answer in texts)
    contents: list[Contents] = [
        {"rows.jsonl": lines(instructions)},
        {"rows.json": json.dumps(instructions, indent=1)},
        {"rows.jsonl.gz": gzip.compress(lines(messages).encode())},
        {"rows.json.zst": pa.compress(json.dumps(messages).encode(), codec="zstd", asbytes=True)},
        {"rows.parquet": as_parquet(messages)},
        {"rows.parquet.gz": gzip.compress(as_parquet(sharegpt))},
        {"rows.csv": csv},
    ]
    results = []
    for content in contents:
        found = outputs(prepare(content))
        results.append([found[name] for name in (*PREPARED[:6], "lengths.csv", "outcomes.csv")])
    assert all(result == results[0] for result in results)


def test_a_failure_leaves_earlier_outputs_as_they_were(
    prepare: Prepare, fail: Callable[..., str], byte_base: Path
) -> None:
    folder = prepare({"rows.jsonl": GOOD})
    before = outputs(folder)
    (folder / "data" / "raw" / "rows.jsonl").write_text(GOOD + "{\n", encoding="utf-8")
    fail(stage.main, "--base", byte_base)
    assert outputs(folder) == before
    assert sorted(path.name for path in (folder / "data").iterdir()) == ["prepared", "raw"]


def environment() -> dict[str, str]:
    return {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "0"}


@pytest.mark.slow
def test_one_core_or_two_and_a_second_run_give_the_same_bytes(write_raw: Prepare, byte_base: Path) -> None:
    # Several batches, with duplicates far apart, so that two threads work at the same time.
    values = [alpaca(f"Is {n % 2300} a number, {'x' * (n % 300)}?", "yes" * (n % 7 + 1)) for n in range(2500)]
    folder = write_raw(
        {"a.jsonl": lines(values), "b.txt": "\n".join(f"Text {n}" for n in range(300))},
        {"preprocess.max_dropped_share": 1.0},
    )
    command = [sys.executable, "-m", "stages.preprocess", "--base", str(byte_base)]
    results = []
    for pinned in (["taskset", "-c", "0"], [], []):
        subprocess.run([*pinned, *command], cwd=folder, env=environment(), check=True, capture_output=True)
        results.append(outputs(folder))
    assert results[0] == results[1] == results[2]


@pytest.mark.slow
def test_the_stage_loads_neither_torch_nor_transformers(write_raw: Prepare, byte_base: Path) -> None:
    folder = write_raw({"a.jsonl": GOOD})
    program = (
        "import sys; from stages.preprocess import __main__;"
        f"__main__.main(['--base', {str(byte_base)!r}], standalone_mode=False);"
        "sys.exit(bool({'torch', 'transformers', 'datasets'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, env=environment(), capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


GSM8K = {"preprocess.files": {"gsm8k*": {"columns": {"prompt": "question", "completion": "answer"}}}}


@pytest.mark.parametrize(
    ("name", "changes", "format_"),
    [
        ("alpaca_en_demo.json", {}, "alpaca"),
        (
            "glaive_toolcall_en_demo.json",
            {"preprocess.over_length": "drop", "preprocess.max_dropped_share": 0.5},
            "sharegpt",
        ),
        ("gsm8k_train.jsonl", GSM8K, "prompt_completion"),
        ("wiki_demo.txt", {"preprocess.over_length": "truncate"}, "text"),
    ],
)
def test_rows_of_public_formats_are_accounted_for(
    write_raw: Prepare,
    succeed: Callable[..., str],
    base: Path,
    name: str,
    changes: dict[str, Any],
    format_: str,
) -> None:
    content = (ROWS / name).read_bytes()
    folder = write_raw({name: content}, {"preprocess.max_length": 2048} | changes)
    succeed(stage.main, "--base", base)
    found = counts(folder)
    lines = sum(line.strip() != b"" for line in content.splitlines())
    assert found["rows_read"] == (len(json.loads(content)) if name.endswith(".json") else lines)
    assert found["rows_read"] == found["rows_kept"] + sum(found["rows_dropped"].values())
    assert found["files"][name]["format"] == format_
    assert set(found["rows_dropped"]) <= {"duplicate", "near_duplicate", "over_length"}
    assert found["rows_without_supervised_stop"] == found["rows_without_supervised_tokens"] == 0
    assert found["tokens"]["max"] <= 2048
    accounting.check(found, folder / "data" / "raw", folder / "data" / "prepared", base)
