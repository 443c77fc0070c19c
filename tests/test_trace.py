"""`make trace`, on a small project that the real preprocess stage and the real DVC have written."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, write_params
from pyarrow import parquet

from tools import trace
from tools.common import rows

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
# Preprocess is the real one. What comes after only has to write something that follows from what it reads.
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
    cmd: cat data/prepared/calibration.arrow models/merged > models/awq
    deps: [data/prepared/calibration.arrow, models/merged]
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


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, base: Path) -> Path:
    """Two versions of data and models: one committed and tagged `first`, one in the workspace."""
    folder = tmp_path_factory.mktemp("finished")
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
    return folder


@pytest.fixture
def project(finished: Path, tmp_path: Path) -> Path:
    """A copy of the project that a test may break; `succeed` and `fail` run in it."""
    return shutil.copytree(finished, tmp_path, dirs_exist_ok=True)


def pick(folder: Path, **wanted: Any) -> dict[str, Any]:
    """Give the first manifest entry with these values."""
    records = parquet.read_table(folder / "data/prepared/manifest.parquet").to_pylist()
    return next(record for record in records if wanted.items() <= record.items())


def row_id(record: dict[str, Any]) -> str:
    return f"{record['file']}:{record['line']}"


def parts(output: str) -> list[tuple[str, str]]:
    """Read the output back: name and text of every line."""
    return [(line[:14].rstrip(), line[16:]) for line in output.splitlines()]


def md5(folder: Path, path: str) -> str:
    """Give the hash under which dvc.lock has an out."""
    text = (folder / "dvc.lock").read_text(encoding="utf-8")
    return text.partition("    outs:\n    - path: " + path + "\n")[2].split("md5: ")[1].split()[0]


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def test_a_train_row_is_followed_to_the_models(project: Path, succeed: Callable[..., str]) -> None:
    record = pick(project, fate="train", file="rows.jsonl", calibration=False)
    given = ROWS[record["line"] - 1]
    assert parts(succeed(trace.main, row_id(record))) == [
        ("row", f"rows.jsonl:{record['line']} in data/raw"),
        ("content hash", record["content_hash"]),
        ("fate", f"train: line {record['position'] + 1} of data/prepared/train.jsonl, row {record['position']} of "
         "train.arrow"),
        ("tokens", f"{record['tokens']}, {record['supervised_tokens']} of them supervised"),
        ("calibration", "no"),
        ("user", given["instruction"]),
        ("assistant", given["output"]),
        ("models/adapter", f"trained on it; md5 {md5(project, 'models/adapter')}"),
        ("models/merged", f"base with that adapter; md5 {md5(project, 'models/merged')}"),
        ("models/awq", f"that merged model, quantised; md5 {md5(project, 'models/awq')}"),
    ]  # fmt: skip


def test_awq_was_calibrated_on_a_calibration_row(project: Path, succeed: Callable[..., str]) -> None:
    found = parts(succeed(trace.main, row_id(pick(project, calibration=True))))
    assert ("calibration", "yes") in found
    assert found[-1][1].startswith("that merged model, quantised, calibrated on this row; md5 ")


def test_a_val_row_was_only_scored_on(project: Path, succeed: Callable[..., str]) -> None:
    found = parts(succeed(trace.main, row_id(pick(project, fate="val", position=3))))
    assert found[-4:] == [
        ("models", "none was trained on it"),
        *((f"models/{name}", "scored on it") for name in ("base", "merged", "awq")),
    ]


def test_a_val_row_beyond_eval_rows_was_not_scored_on(project: Path, succeed: Callable[..., str]) -> None:
    found = parts(succeed(trace.main, row_id(pick(project, fate="val", position=4))))
    assert found[-1] == ("models/awq", "not scored on it: eval.rows takes the first 4 val rows")


def test_a_duplicate_is_shown_with_its_twin(project: Path, succeed: Callable[..., str]) -> None:
    found = parts(succeed(trace.main, "rows.jsonl:7"))
    record, twin = (pick(project, file="rows.jsonl", line=line) for line in (7, 1))
    assert found[2:] == [
        ("fate", "dropped: an earlier row says the same (duplicate)"),
        ("tokens", f"{record['tokens']}, {record['supervised_tokens']} of them supervised"),
        ("twin", f"rows.jsonl:1 ({twin['fate']}), which says:"),
        ("user", "What is ax?"),
        ("assistant", "A ax is a thing."),
        ("models", "none was trained on it; of its twin, `make trace ROW=rows.jsonl:1` tells"),
    ]


def test_a_row_that_was_no_conversation_is_shown_as_it_stands(project: Path, succeed: Callable[..., str]) -> None:
    assert parts(succeed(trace.main, "data/raw/rows.jsonl:8")) == [
        ("row", "rows.jsonl:8 in data/raw"),
        ("content hash", "none: it is no conversation"),
        ("fate", "dropped: no answer (empty_answer)"),
        ("raw row", '{"instruction": "Nothing to say.", "output": ""}'),
        ("models", "none was trained on it"),
    ]
    assert ("raw row", "5") in parts(succeed(trace.main, "talk.jsonl:2"))
    (project / "data/raw/talk.jsonl").unlink()
    assert parts(succeed(trace.main, "talk.jsonl:2"))[-2][0] == "fate"


def test_a_long_row_is_shortened(project: Path, succeed: Callable[..., str]) -> None:
    found = parts(succeed(trace.main, "talk.jsonl:1"))
    start = next(index for index, (name, _) in enumerate(found) if name == "user")
    said = found[start : start + 7]
    assert [name for name, _ in said] == ["user", "assistant", "user", "assistant", "user", "…", "assistant"]
    assert said[5][1] == "2 more"
    assert said[6][1].startswith("assistant 3 long")
    assert all(len(text) == trace.WIDTH and text.endswith("…") for name, text in said if name != "…")


def test_a_row_that_was_cut_says_so(project: Path, succeed: Callable[..., str]) -> None:
    assert dict(parts(succeed(trace.main, "talk.jsonl:3")))["tokens"].endswith(", cut to preprocess.max_length")
    assert dict(parts(succeed(trace.main, "talk.jsonl:1")))["tokens"].endswith(" of them supervised")


def test_findings_are_named(project: Path, succeed: Callable[..., str]) -> None:
    found = dict(parts(succeed(trace.main, "rows.jsonl:6")))
    assert found["findings"] == "email"
    assert found["assistant"] == "Hi, Zoë! Mail zoe@example.com"


@pytest.mark.parametrize("digits", [8, 20, 32])
def test_a_row_is_found_by_its_hash(project: Path, succeed: Callable[..., str], digits: int) -> None:
    record = pick(project, file="rows.jsonl", line=3)
    assert parts(succeed(trace.main, record["content_hash"][:digits].upper()))[0][1] == "rows.jsonl:3 in data/raw"


def test_seven_digits_of_a_hash_are_too_few(project: Path, fail: Callable[..., str]) -> None:
    digits = pick(project, file="rows.jsonl", line=3)["content_hash"][:7]
    assert fail(trace.main, digits) == f"{digits}: no row has this id or hash, and no kept row these words"


@pytest.mark.parametrize("words", ["zoë SAY", '"HI"', "to zoë hi, mail"])
def test_a_row_is_found_by_its_words(project: Path, succeed: Callable[..., str], words: str) -> None:
    assert parts(succeed(trace.main, words))[0][1] == "rows.jsonl:6 in data/raw"


@pytest.mark.parametrize("words", ["messages", "role", "content", "nto", "\\n", "at 10:30"])
def test_words_that_only_stand_in_the_json_around_a_row_or_nowhere(
    project: Path, fail: Callable[..., str], words: str
) -> None:
    assert fail(trace.main, words).endswith("no kept row these words")


def test_ten_of_many_rows_are_listed(project: Path, succeed: Callable[..., str]) -> None:
    listed = succeed(trace.main, "count from").splitlines()
    assert len(listed) == trace.LISTED
    assert all(line.split()[1] in ("train", "val") for line in listed)
    for line in listed:
        name, _, fate = line.partition("  ")
        record = pick(project, file="rows.jsonl", line=int(name.split(":")[1]))
        assert record["fate"] == fate
        assert "Count from" in ROWS[record["line"] - 1]["instruction"]


def test_a_few_rows_are_all_listed(project: Path, succeed: Callable[..., str]) -> None:
    assert len(succeed(trace.main, "is thing").splitlines()) == 5


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("rows.jsonl:29", "rows.jsonl:29: no such row; those of rows.jsonl have the numbers 1 to 28"),
        ("rows.jsonl:0", "rows.jsonl:0: no such row; those of rows.jsonl have the numbers 1 to 28"),
        ("row.jsonl:1", "row.jsonl:1: no such file in the manifest; try rows.jsonl"),
        ("other.csv:1", "other.csv:1: no such file in the manifest; try more.jsonl, rows.jsonl, talk.jsonl"),
    ],
)
def test_a_row_that_is_not_there(project: Path, fail: Callable[..., str], row: str, message: str) -> None:
    assert fail(trace.main, row).startswith(message)


def test_without_data_the_error_says_how_to_make_some(tmp_path: Path, fail: Callable[..., str]) -> None:
    message = "data/prepared/manifest.parquet: no such file or folder; run `dvc repro` first"
    assert fail(trace.main, "rows.jsonl:1") == message


def test_without_a_lock_no_model_is_named(project: Path, succeed: Callable[..., str]) -> None:
    (project / "dvc.lock").unlink()
    found = parts(succeed(trace.main, row_id(pick(project, fate="train"))))
    assert found[-1] == (
        "models",
        "not known: dvc.lock does not have data/prepared/manifest.parquet; run `dvc repro`",
    )
    assert not any(name.startswith("models/") for name, _ in found)


def test_a_manifest_newer_than_the_lock_names_no_model(project: Path, succeed: Callable[..., str]) -> None:
    run(project, f"{sys.executable} -m stages.preprocess")
    row = row_id(pick(project, fate="train"))
    before = parts(succeed(trace.main, row))
    assert before[-1][0] == "models/awq"  # the same bytes again
    edit(project / "data/raw/rows.jsonl", "Count from 3 ", "Please count from 3 ")
    run(project, f"{sys.executable} -m stages.preprocess")
    assert parts(succeed(trace.main, row))[-1] == (
        "models",
        "not known: data/prepared/manifest.parquet is newer than dvc.lock; run `dvc repro`",
    )


def test_a_model_trained_on_other_rows_is_not_named(project: Path, succeed: Callable[..., str]) -> None:
    write_rows(project / "data/raw/more.jsonl", [{"instruction": "What is new?", "output": "That."}])
    run(project, "dvc repro -q preprocess")
    row = row_id(pick(project, fate="train"))
    other = "made from another data/prepared/train.arrow than this one; run `dvc repro train`"
    assert parts(succeed(trace.main, row))[-1] == ("models/adapter", other)
    run(project, "dvc repro -q train")
    assert parts(succeed(trace.main, row))[-2:] == [
        ("models/adapter", f"trained on it; md5 {md5(project, 'models/adapter')}"),
        ("models/merged", "made from another models/adapter than this one; run `dvc repro merge`"),
    ]
    run(project, "dvc repro -q")
    assert parts(succeed(trace.main, row))[-1][1].startswith("that merged model, quantised")


def test_a_model_that_was_never_made(project: Path, succeed: Callable[..., str]) -> None:
    (project / "dvc.lock").unlink()
    run(project, "dvc repro -q preprocess")
    found = parts(succeed(trace.main, row_id(pick(project, fate="train"))))
    assert found[-1] == ("models/adapter", "not made; run `dvc repro train`")
    found = parts(succeed(trace.main, row_id(pick(project, fate="val"))))
    assert found[-1] == ("models", "none was trained on it")


def test_a_revision_has_its_own_rows_and_models(
    project: Path, succeed: Callable[..., str], fail: Callable[..., str]
) -> None:
    new = pick(project, file="more.jsonl", fate="train")
    assert fail(trace.main, row_id(new), "--rev", "first").startswith(f"{row_id(new)}: no such file in the manifest")
    row = row_id(pick(project, file="rows.jsonl", fate="train"))
    now, then = parts(succeed(trace.main, row)), parts(succeed(trace.main, row, "--rev", "first"))
    assert now[:2] == then[:2]
    assert now[-1] != then[-1]
    run(project, "git checkout -q -f first", "dvc checkout -q")
    assert parts(succeed(trace.main, row)) == then


def test_rows_of_a_revision_that_are_not_in_the_cache_can_be_fetched(
    project: Path, succeed: Callable[..., str], fail: Callable[..., str]
) -> None:
    run(project, "git add -A", "git commit -qm second")
    before = succeed(trace.main, "rows.jsonl:3", "--rev", "first")
    shutil.rmtree(project / ".dvc/cache")
    error = fail(trace.main, "rows.jsonl:3", "--rev", "first")
    command = "git checkout first && dvc fetch preprocess && git checkout -"
    assert error == f"data/prepared/manifest.parquet at first: not in the DVC cache; run `{command}` first"
    run(project, command)
    assert succeed(trace.main, "rows.jsonl:3", "--rev", "first") == before


def test_a_cache_in_another_place_is_found(project: Path, succeed: Callable[..., str]) -> None:
    before = succeed(trace.main, "rows.jsonl:3", "--rev", "first")
    (project / ".dvc/cache").rename(project / "elsewhere")
    run(project, "dvc cache dir -q --local elsewhere")
    assert succeed(trace.main, "rows.jsonl:3", "--rev", "first") == before


@pytest.mark.parametrize("rev", ["empty", "no-such-revision"])
def test_a_revision_without_a_lock_is_one_line(project: Path, fail: Callable[..., str], rev: str) -> None:
    assert fail(trace.main, "rows.jsonl:3", "--rev", rev).startswith("git show: fatal: ")


def test_a_lock_from_before_the_manifest_is_one_line(project: Path, fail: Callable[..., str]) -> None:
    edit(project / "dvc.lock", "manifest.parquet", "other.parquet")
    run(project, "git add -A", "git commit -qm old")
    message = "dvc.lock at HEAD: no data/prepared/manifest.parquet in it; name a revision that has one"
    assert fail(trace.main, "rows.jsonl:3", "--rev", "HEAD") == message


def test_what_would_command_the_terminal_is_spelled_out() -> None:
    assert rows.visible("a\x1b[31mb\u202ec\x9bd é漢🎉") == "a\\x1b[31mb\\u202ec\\x9bd é漢🎉"


def test_tool_calls_and_plain_text_are_said(tmp_path: Path) -> None:
    call = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Oslo"}}}
    row = {"messages": [{"role": "assistant", "content": "", "tool_calls": [call]}]}
    assert "weather" in next(rows.spoken(row))[1]
    assert "Oslo" in next(rows.spoken(row))[1]
    write_rows(tmp_path / "rows.jsonl", [row, {"text": "in Oslo"}])
    assert rows.search(tmp_path / "rows.jsonl", ["oslo"], 5) == [0, 1]
    assert rows.search(tmp_path / "rows.jsonl", ["in", "oslo"], 5) == [1]
