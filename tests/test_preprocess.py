"""Preprocess: every raw row is kept or counted, the splits follow from content and seed, and bad input is named.

tests/golden holds raw files and what must come of them, byte by byte. The tokenizer of these tests has one token per
byte, so that lengths can be counted by hand.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stages import preprocess
from stages.common import chat, raw

ROOT = Path(__file__).resolve().parents[1]
GOLDEN = ROOT / "tests" / "golden"
ALPACA = ROOT.parent / "shared" / "data" / "alpaca_en_demo.json"
# What the golden rows were made with: one row too long, two without an answer, a third of the rows to score on.
GOLDEN_PARAMS = {
    "preprocess.val_fraction": 0.3,
    "preprocess.calibration_rows": 4,
    "preprocess.max_length": 160,
    "preprocess.empty_answer": "drop",
    "preprocess.max_dropped_share": 0.2,
}
OUTPUTS = ("data/prepared/train.jsonl", "data/prepared/val.jsonl", "data/prepared/calibration.jsonl")
METRICS = ("metrics/preprocess.json", "metrics/lengths.csv")

Rows = list[dict[str, Any]]
Prepare = Callable[..., Path]


def row(question: str, answer: str = "yes") -> dict[str, str]:
    return {"instruction": question, "input": "", "output": answer}


def rows(count: int, start: int = 0) -> Rows:
    return [row(f"Is {number} a number?") for number in range(start, start + count)]


def lines(values: Rows) -> str:
    return "".join(json.dumps(value) + "\n" for value in values)


def read(folder: Path, name: str) -> Rows:
    text = (folder / "data" / "prepared" / f"{name}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.split("\n") if line]


def counts(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "metrics" / "preprocess.json").read_text(encoding="utf-8"))


def questions(values: Rows) -> list[str]:
    return [value["messages"][0]["content"] for value in values]


@pytest.fixture
def lay(tmp_path: Path, params: Callable[..., Path]) -> Prepare:
    """Write params and raw files into tmp_path: `lay({"a.jsonl": "text or bytes"}, {"preprocess.seed": 1})`."""

    def lay(contents: dict[str, str | bytes], changes: dict[str, Any] | None = None) -> Path:
        params({"preprocess.max_length": 1000} | (changes or {}))
        shutil.rmtree(tmp_path / "data", ignore_errors=True)
        (tmp_path / "data" / "raw").mkdir(parents=True)
        for name, content in contents.items():
            data = content if isinstance(content, bytes) else content.encode()
            (tmp_path / "data" / "raw" / name).write_bytes(data)
        return tmp_path

    return lay


@pytest.fixture
def prepare(lay: Prepare, succeed: Callable[..., str], byte_base: Path) -> Prepare:
    """Lay the files out and run the stage on them."""

    def prepare(contents: dict[str, str | bytes], changes: dict[str, Any] | None = None) -> Path:
        folder = lay(contents, changes)
        succeed(preprocess.main, "--base", byte_base)
        return folder

    return prepare


@pytest.fixture
def refuse(lay: Prepare, fail: Callable[..., str], byte_base: Path) -> Callable[..., str]:
    """Lay the files out, run the stage, which must fail and write nothing, and give the message."""

    def refuse(contents: dict[str, str | bytes], changes: dict[str, Any] | None = None) -> str:
        folder = lay(contents, changes)
        message = fail(preprocess.main, "--base", byte_base)
        assert sorted(path.name for path in folder.iterdir()) == ["data", "params.yaml"]
        assert [path.name for path in (folder / "data").iterdir()] == ["raw"]
        return message

    return refuse


def test_golden_rows(prepare: Prepare) -> None:
    contents = {path.name: path.read_bytes() for path in (GOLDEN / "raw").iterdir()}
    folder = prepare(contents, GOLDEN_PARAMS)
    for name in (*OUTPUTS, *METRICS):
        assert (folder / name).read_bytes() == (GOLDEN / name.removeprefix("data/")).read_bytes(), name


@pytest.mark.parametrize(
    "change",
    [
        lambda text: b"\xef\xbb\xbf" + text,
        lambda text: text.replace(b"\n", b"\r\n"),
        lambda text: b"\n \n" + text + b"\n\n",
        lambda text: text.removesuffix(b"\n"),
    ],
    ids=["byte order mark", "CRLF", "blank lines", "no newline at the end"],
)
def test_the_spelling_of_a_file_changes_nothing(prepare: Prepare, change: Callable[[bytes], bytes]) -> None:
    contents = {path.name: change(path.read_bytes()) for path in (GOLDEN / "raw").iterdir()}
    folder = prepare(contents, GOLDEN_PARAMS)
    for name in (*OUTPUTS, *METRICS):
        assert (folder / name).read_bytes() == (GOLDEN / name.removeprefix("data/")).read_bytes(), name


def test_both_forms_and_both_files_give_the_same_rows(prepare: Prepare) -> None:
    texts = [(f"Is {number} a number?", "yes") for number in range(20)]
    alpaca = [row(*text) for text in texts]
    messages = [
        {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}
        for question, answer in texts
    ]
    results = [
        {name: (prepare(contents) / name).read_bytes() for name in (*OUTPUTS, *METRICS)}
        for contents in (
            {"rows.jsonl": lines(alpaca)},
            {"rows.json": json.dumps(alpaca, indent=1)},
            {"rows.jsonl": lines(messages)},
            {"rows.json": json.dumps(messages)},
        )
    ]
    assert all(result == results[0] for result in results)


def test_hidden_and_dvc_files_are_no_data(prepare: Prepare) -> None:
    folder = prepare({"rows.jsonl": lines(rows(20)), ".gitignore": "/rows.jsonl\n", "rows.jsonl.dvc": "outs:\n"})
    assert counts(folder)["rows_read"] == 20


def test_every_row_is_kept_or_counted(prepare: Prepare) -> None:
    contents = {
        "a.jsonl": lines([*rows(30), row("long?", "x" * 2000), row("empty?", ""), row("blank?", " \n")]),
        "b.json": json.dumps([*rows(10, start=25), row("empty?", "")]),
    }
    found = counts(prepare(contents, {"preprocess.empty_answer": "drop", "preprocess.max_dropped_share": 0.1}))
    assert found["rows_read"] == 44
    assert found["rows_dropped"] == {"duplicate": 5, "empty_answer": 3, "over_length": 1}
    assert found["rows_kept"] == 44 - 9 == found["rows_train"] + found["rows_val"]
    assert found["rows_over_length"] == 1
    assert found["rows_without_supervised_stop"] == found["rows_without_supervised_tokens"] == 0


def test_the_first_of_two_equal_rows_stays_whatever_its_file_or_form(prepare: Prepare) -> None:
    twin = {"messages": [{"role": "user", "content": "Is 0 a number?"}, {"role": "assistant", "content": "yes"}]}
    folder = prepare({"a.jsonl": lines(rows(20)), "b.json": json.dumps([twin, twin]), "c.jsonl": lines(rows(3))})
    assert counts(folder)["rows_dropped"] == {"duplicate": 5}
    kept = questions(read(folder, "train") + read(folder, "val"))
    assert sorted(kept) == sorted(value["instruction"] for value in rows(20))


def test_adding_rows_never_moves_a_row(prepare: Prepare) -> None:
    folder = prepare({"b.jsonl": lines(rows(100))})
    before = {name: read(folder, name) for name in ("train", "val")}
    folder = prepare(
        {"a.jsonl": lines(rows(50, start=100)), "b.jsonl": lines(rows(100)), "c.jsonl": lines(rows(9, 200))}
    )
    for name in ("train", "val"):
        after = read(folder, name)
        assert [value for value in after if value in before[name]] == before[name]
        assert len(after) > len(before[name])


def test_the_share_of_val_rows_is_about_the_fraction_and_grows_with_it(prepare: Prepare) -> None:
    contents: dict[str, str | bytes] = {"rows.jsonl": lines(rows(1000))}
    small = questions(read(prepare(contents, {"preprocess.val_fraction": 0.1}), "val"))
    large = questions(read(prepare(contents, {"preprocess.val_fraction": 0.3}), "val"))
    assert 70 <= len(small) <= 130
    assert 250 <= len(large) <= 350
    assert set(small) < set(large)


def test_another_seed_gives_another_split(prepare: Prepare) -> None:
    contents: dict[str, str | bytes] = {"rows.jsonl": lines(rows(100))}
    seven, again, eight = (read(prepare(contents, {"preprocess.seed": seed}), "val") for seed in (7, 7, 8))
    assert seven == again != eight


def test_calibration_rows_are_drawn_from_train_by_the_seed(prepare: Prepare) -> None:
    contents: dict[str, str | bytes] = {"rows.jsonl": lines(rows(100))}
    folder = prepare(contents, {"preprocess.calibration_rows": 10})
    train, drawn = questions(read(folder, "train")), questions(read(folder, "calibration"))
    assert len(set(drawn)) == 10
    assert set(drawn) < set(train)
    assert drawn != train[:10]
    more = questions(read(prepare(contents, {"preprocess.calibration_rows": 20}), "calibration"))
    assert more[:10] == drawn
    every = read(prepare(contents, {"preprocess.calibration_rows": 1000}), "calibration")
    assert sorted(questions(every)) == sorted(train)


def test_lengths_are_counted_in_tokens(prepare: Prepare) -> None:
    # With one token per byte: "user:" + question + "<end>" + "assistant:" + answer + "<end>".
    around = len("user:") + 1 + len("assistant:") + 1
    contents: dict[str, str | bytes] = {"rows.jsonl": lines([row(f"{n:03d}", "a" * n) for n in range(1, 101)])}
    folder = prepare(contents)
    found = counts(folder)
    assert found["tokens"] == {
        "p50": around + 3 + 50, "p95": around + 3 + 95, "p99": around + 3 + 99, "max": around + 3 + 100
    }  # fmt: skip
    total = sum(around + 3 + n for n in range(1, 101))
    assert found["supervised_share"] == round(sum(n + 1 for n in range(1, 101)) / total, 6)
    header, *classes = (folder / "metrics" / "lengths.csv").read_text(encoding="utf-8").splitlines()
    starts, sizes = zip(*(map(int, line.split(",")) for line in classes), strict=True)
    width = starts[1]
    assert (header, starts) == ("tokens,rows", tuple(range(0, found["tokens"]["max"] + 1, width)))
    lengths = [around + 3 + n for n in range(1, 101)]
    assert list(sizes) == [sum(start <= length < start + width for length in lengths) for start in starts]


def test_a_row_of_the_greatest_length_is_kept(prepare: Prepare) -> None:
    contents: dict[str, str | bytes] = {"rows.jsonl": lines([*rows(60), row("é" * 20, "a" * 40)])}
    length = len("user:") + 40 + 1 + len("assistant:") + 40 + 1
    changes = {"preprocess.over_length": "error"}
    assert counts(prepare(contents, changes | {"preprocess.max_length": length}))["tokens"]["max"] == length
    assert counts(prepare(contents, {"preprocess.max_length": length - 1}))["rows_dropped"] == {"over_length": 1}


def test_rows_that_teach_nothing_are_dropped_and_counted(
    lay: Prepare, fail: Callable[..., str], byte_base: Path
) -> None:
    folder = lay({"rows.jsonl": lines(rows(20))})
    base = shutil.copytree(byte_base, folder / "base")
    template = base / "chat_template.jinja"
    template.write_text("{{ messages[0].content }}{% generation %}{% endgeneration %}", encoding="utf-8")
    message = "data/raw: all 20 rows dropped (no_supervised_token 20); see docs/preprocess.md"
    assert fail(preprocess.main, "--base", base) == message


def test_rows_without_a_supervised_stop_token_are_counted(
    lay: Prepare, succeed: Callable[..., str], byte_base: Path
) -> None:
    folder = lay({"rows.jsonl": lines(rows(20))})
    base = shutil.copytree(byte_base, folder / "base")
    for answer, without in (
        ("{% generation %}{{ messages[1].content }}{% endgeneration %}<end>", 20),
        ("{% generation %}{{ messages[1].content }}<end>{% endgeneration %}", 0),
        # A newline after the stop token is learnt with TRL's templates, and does no harm.
        ("{% generation %}{{ messages[1].content + '<end>\n' }}{% endgeneration %}", 0),
        ("{% generation %}{{ messages[1].content + '<end>.' }}{% endgeneration %}", 20),
    ):
        (base / "chat_template.jinja").write_text("{{ messages[0].content }}" + answer, encoding="utf-8")
        succeed(preprocess.main, "--base", base)
        assert counts(folder)["rows_without_supervised_stop"] == without, answer


GOOD = lines(rows(20))
EMPTY = ": empty file; fill it or delete it"
SUFFIX = ": not one of .json, .jsonl; convert it or move it away"
MISSING = ':1: no answer ("output" is missing); add it or delete the row'
BLANK = ":22: no answer; fill it in, or set preprocess.empty_answer: drop to leave such rows out and count them"
ROLES = "`role` must be one of system, user, assistant, tool"
HALF = "half a character (an unpaired \\ud... escape); mend the row"
DEEP = "a number too long, or brackets too deep; mend the"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.jsonl", "", EMPTY),
        ("rows.json", " \n\t\n", EMPTY),
        ("rows.json", "[]", ": no rows; fill it or delete it"),
        ("rows.csv", "a,b\n", SUFFIX),
        ("README", "text", SUFFIX),
        ("a.jsonl", GOOD + '{"output": "b"\n' + GOOD, ":21: not JSON (Expecting ',' delimiter); mend the line"),
        ("a.jsonl", '{"instruction": "\u2028", "output": "b"}\n?\n', ":2: not JSON (Expecting value); mend the line"),
        ("a.json", '[\n{"output": "b"}\n{"output": "c"}\n]', ":3: not JSON (Expecting ',' delimiter); mend the line"),
        ("a.json", "[1]\n[2]", ":2: not JSON (Extra data); mend the line"),
        ("a.jsonl", "{}\n" + "1" * 5000, f":2: {DEEP} line"),
        ("a.json", "[" * 100_000, f": {DEEP} file"),
        ("a.jsonl", GOOD.encode() + b'{"a": "\xff"}\n', ":21: not UTF-8; save the file as UTF-8"),
        ("a.json", GOOD.encode("utf-16"), ":1: not UTF-8; save the file as UTF-8"),
        ("a.jsonl", GOOD + "3\n", ":21: a row must be a JSON object, not int"),
        (
            "a.json",
            '[{"instruction": "a", "output": "b"}, 3.5]',
            ": row 2: a row must be a JSON object, not float",
        ),
        ("a.jsonl", '{"text": "a", "b": 1}\n', ":1: no `instruction` and no `messages` (keys: b, text)"),
        ("a.jsonl", "{}\n", ":1: no `instruction` and no `messages` (keys: none)"),
        ("a.jsonl", '{"instruction": "a"}\n', MISSING),
        ("a.jsonl", '{"instruction": "a", "output": null}\n', MISSING),
        ("a.jsonl", GOOD + '\n{"instruction": "a", "output": " "}\n', BLANK),
        ("a.jsonl", '{"instruction": 1, "output": "b"}\n', ":1: `instruction` must be text, not int"),
        ("a.jsonl", '{"instruction": "a", "input": [1], "output": "b"}\n', ":1: `input` must be text, not list"),
        ("a.jsonl", '{"instruction": "a", "output": {"b": 1}}\n', ":1: `output` must be text, not dict"),
        ("a.jsonl", '{"messages": []}\n', ":1: `messages` must be a list of messages"),
        ("a.jsonl", '{"messages": "Hi"}\n', ":1: `messages` must be a list of messages"),
        ("a.jsonl", '{"messages": ["Hi"]}\n', f":1: message 1: {ROLES}"),
        ("a.jsonl", '{"messages": [{"role": "human", "content": "a"}]}\n', f":1: message 1: {ROLES}"),
        ("a.jsonl", '{"messages": [{"role": ["user"], "content": "a"}]}\n', f":1: message 1: {ROLES}"),
        ("a.json", '[{"messages": [{"role": "user"}]}]', ": row 1: message 1: `content` must be text"),
        (
            "a.jsonl",
            '{"messages": [{"role": "user", "content": "a"}]}\n',
            ":1: no answer (the last message is not the assistant's)",
        ),
        ("a.jsonl", GOOD + '{"instruction": "half \\ud83d", "output": "b"}\n', f":21: {HALF}"),
        ("a.json", '[{"instruction": "a", "output": "b", "\\uDE00": 1}]', f": row 1: {HALF}"),
    ],
)
def test_bad_input_is_named_with_file_and_line(
    refuse: Callable[..., str], name: str, content: str | bytes, message: str
) -> None:
    assert refuse({"good.jsonl": GOOD, name: content}) == f"data/raw/{name}{message}"


@pytest.mark.parametrize(
    ("contents", "changes", "message"),
    [
        ({}, {}, "data/raw: no files; put .json or .jsonl files in it"),
        ({".hidden": "x"}, {}, "data/raw: no files; put .json or .jsonl files in it"),
        (
            {"rows.jsonl": lines([row("a", ""), row("b", " ")])},
            {"preprocess.empty_answer": "drop"},
            "data/raw: all 2 rows dropped (empty_answer 2); see docs/preprocess.md",
        ),
        (
            {"rows.jsonl": lines(rows(20))},
            {"preprocess.max_length": 10},
            "data/raw: all 20 rows dropped (over_length 20); see docs/preprocess.md",
        ),
        (
            {"rows.jsonl": lines([*rows(20), *rows(5), row("a", ""), row("b", "x" * 2000)])},
            {"preprocess.empty_answer": "drop"},
            "data/raw: 2 of 27 rows dropped (duplicate 5, empty_answer 1, over_length 1), more than "
            "preprocess.max_dropped_share (0.02); mend the rows or raise the limit",
        ),
        (
            {"rows.jsonl": lines([*rows(20), row("b", "x" * 2000)])},
            {"preprocess.over_length": "error"},
            "data/raw: 1 of 21 rows are longer than preprocess.max_length (1000 tokens); raise it, or set "
            "preprocess.over_length: drop",
        ),
        (
            {"rows.jsonl": lines(rows(1))},
            {},
            "data/raw: 1 rows give 1 for training and 0 for validation; add rows or change preprocess.val_fraction",
        ),
    ],
)
def test_input_that_gives_too_little_is_an_error(
    refuse: Callable[..., str], contents: dict[str, str | bytes], changes: dict[str, Any], message: str
) -> None:
    assert refuse(contents, changes) == message


def test_a_missing_raw_folder_is_an_error(
    refuse: Callable[..., str], fail: Callable[..., str], byte_base: Path
) -> None:
    refuse({})
    message = "data/nowhere: no files; put .json or .jsonl files in it"
    assert fail(preprocess.main, "--raw", "data/nowhere", "--base", byte_base) == message


def test_a_base_without_a_chat_template_is_an_error(lay: Prepare, fail: Callable[..., str], byte_base: Path) -> None:
    folder = lay({"rows.jsonl": GOOD})
    shutil.copytree(byte_base, folder / "base", ignore=shutil.ignore_patterns("*.jinja"))
    message = "base: no chat template (chat_template.jinja); set base.chat_template"
    assert fail(preprocess.main, "--base", "base") == message
    assert [path.name for path in (folder / "data").iterdir()] == ["raw"]


def test_a_failure_leaves_earlier_outputs_as_they_were(
    prepare: Prepare, fail: Callable[..., str], byte_base: Path
) -> None:
    folder = prepare({"rows.jsonl": GOOD})
    before = {name: (folder / name).read_bytes() for name in (*OUTPUTS, *METRICS)}
    (folder / "data" / "raw" / "rows.jsonl").write_text(GOOD + "{}\n", encoding="utf-8")
    fail(preprocess.main, "--base", byte_base)
    assert {name: (folder / name).read_bytes() for name in (*OUTPUTS, *METRICS)} == before


def test_the_built_in_model_teaches_a_stop_token_in_every_row(workspace: Path, prepared: Path) -> None:
    found = counts(workspace)
    assert found["rows_read"] == found["rows_kept"] == 50
    assert found["rows_without_supervised_stop"] == 0
    assert {path.name for path in prepared.iterdir()} == {"train.jsonl", "val.jsonl", "calibration.jsonl"}


@pytest.mark.skipif(not ALPACA.exists(), reason="needs the 999 alpaca rows beside the repository")
def test_real_rows_are_accounted_for(prepare: Prepare, base: Path, succeed: Callable[..., str]) -> None:
    contents: dict[str, str | bytes] = {ALPACA.name: ALPACA.read_bytes()}
    folder = prepare(contents, {"preprocess.max_length": 100_000})
    found = counts(folder)
    assert (found["rows_read"], found["rows_kept"], found["rows_dropped"]) == (999, 985, {"duplicate": 14})
    assert found["rows_without_supervised_stop"] == 0
    prepare(contents, {"preprocess.max_length": 512, "preprocess.max_dropped_share": 1})
    succeed(preprocess.main, "--base", base)
    found = counts(folder)
    assert found["rows_kept"] + sum(found["rows_dropped"].values()) == 999
    assert found["tokens"]["max"] <= 512
    speaker = chat.load(base)
    kept = [value["messages"] for value in read(folder, "train") + read(folder, "val")]
    for encoded in chat.encode(speaker, kept):
        assert [token for token, learnt in zip(*encoded, strict=True) if learnt][-1] in speaker.stop_ids


TEXTS = st.text(max_size=8)  # lone surrogates included
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | TEXTS
KEYS = st.sampled_from(["instruction", "input", "output", "messages", "role", "content"]) | TEXTS
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3))
MESSAGE = st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant"]) | VALUES, "content": TEXTS | VALUES})
ROW = (
    st.fixed_dictionaries({"instruction": TEXTS, "output": TEXTS}, optional={"input": VALUES})
    | st.fixed_dictionaries({"messages": st.lists(MESSAGE, max_size=3)})
    | VALUES
)


def run_on(folder: Path, base: Path, content: bytes) -> None:
    """Run the stage on one file: whatever it holds, rows are accounted for or one message says what is wrong."""
    (folder / "raw").mkdir(exist_ok=True)
    (folder / "raw" / "rows.jsonl").write_bytes(content)
    paths = {"params": "params.yaml", "raw": "raw", "out": "out", "metrics": "metrics.json", "plot": "plot.csv"}
    arguments = [part for name, path in paths.items() for part in (f"--{name}", str(folder / path))]
    result = CliRunner().invoke(preprocess.main, [*arguments, "--base", str(base)])
    assert isinstance(result.exception, SystemExit | None), content
    if result.exit_code == 0:
        found = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        assert found["rows_read"] == found["rows_kept"] + sum(found["rows_dropped"].values())
    else:
        assert (result.exit_code, result.stderr.count("Error: "), result.stdout) == (1, 1, "")


FUZZ = settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@FUZZ
@given(drawn=st.lists(ROW, min_size=1, max_size=8), array=st.booleans())
def test_any_json_is_accounted_for_or_refused(
    params: Callable[..., Path], byte_base: Path, drawn: list[Any], array: bool
) -> None:
    folder = params(
        {"preprocess.empty_answer": "drop", "preprocess.max_dropped_share": 1, "preprocess.val_fraction": 0.5}
    ).parent
    text = json.dumps(drawn) if array else "".join(json.dumps(value) + "\n" for value in drawn)
    run_on(folder, byte_base, text.encode())


@FUZZ
@given(content=st.binary(max_size=60) | st.text(st.sampled_from('[]{}":,\\u d8\n'), max_size=40).map(str.encode))
def test_any_bytes_are_accounted_for_or_refused(params: Callable[..., Path], byte_base: Path, content: bytes) -> None:
    run_on(params().parent, byte_base, content)


def test_system_and_history_of_an_alpaca_row_come_first() -> None:
    values = {"instruction": "And 2?", "output": "4", "system": "Double it.", "history": [["What is 1?", "2"]]}
    assert [(one["role"], one["content"]) for one in raw.to_messages(raw.RawRow("rows.json: row 1", values))] == [
        ("system", "Double it."),
        ("user", "What is 1?"),
        ("assistant", "2"),
        ("user", "And 2?"),
        ("assistant", "4"),
    ]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"history": ["What is 1?"]}, "x: `history` must be a list of [question, answer] pairs"),
        ({"history": [["What is 1?", 2]]}, "x: message 2: `content` must be text"),
        ({"system": 1}, "x: message 1: `content` must be text"),
    ],
)
def test_a_wrong_system_or_history_names_the_row(values: dict[str, Any], message: str) -> None:
    with pytest.raises(click.ClickException) as caught:
        raw.to_messages(raw.RawRow("x", {"instruction": "And 2?", "output": "4"} | values))
    assert caught.value.message == message


def test_tool_calls_are_not_lost_silently() -> None:
    answer = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "now", "arguments": {}}}]}
    with pytest.raises(click.ClickException) as caught:
        raw.to_messages(raw.RawRow("x", {"messages": [{"role": "user", "content": "Time?"}, answer]}))
    assert caught.value.message == "x: message 2: `tool_calls` are not read yet"
