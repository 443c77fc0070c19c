"""Preprocess: every raw row is kept or counted, the splits follow from content and seed, and bad input is named.

tests/golden holds raw files and what must come of them, byte by byte. The tokenizer of most tests has one token per
byte, so that lengths can be counted by hand.
"""

import gzip
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import accounting
import pyarrow as pa
import pytest
from pyarrow import parquet

from stages import preprocess
from stages.common import chat, tokens

ROOT = Path(__file__).resolve().parents[1]
GOLDEN = ROOT / "tests" / "golden"
REAL = ROOT.parent / "shared" / "data"
# What the golden rows were made with: one row too long, two without an answer, a third of the rows to score on.
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
ROWS = ("train.jsonl", "val.jsonl", "calibration.jsonl")
PREPARED = (*ROWS, "train.arrow", "val.arrow", "calibration.arrow", "manifest.parquet")
METRICS = ("preprocess.json", "lengths.csv", "fates.csv")

Rows = list[dict[str, Any]]
Prepare = Callable[..., Path]


def row(question: str, answer: str = "yes") -> dict[str, str]:
    return {"instruction": question, "input": "", "output": answer}


def rows(count: int, start: int = 0) -> Rows:
    return [row(f"Is {number} a number?") for number in range(start, start + count)]


def talk(*texts: str) -> dict[str, Any]:
    """Give a conversation in which user and assistant say the texts by turns."""
    return {"messages": [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(texts)]}


def length(*texts: str) -> int:
    """Count the tokens of `talk(*texts)`: "user:" or "assistant:", the text, and <end>."""
    return sum(len(("user:", "assistant:")[n % 2]) + len(text.encode()) + 1 for n, text in enumerate(texts))


def lines(values: list[Any]) -> str:
    return "".join(json.dumps(value) + "\n" for value in values)


def read(folder: Path, name: str) -> Rows:
    text = (folder / "data" / "prepared" / f"{name}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.split("\n") if line]


def counts(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "metrics" / "preprocess.json").read_text(encoding="utf-8"))


def manifest(folder: Path) -> Rows:
    return parquet.read_table(folder / "data" / "prepared" / "manifest.parquet").to_pylist()


def questions(values: Rows) -> list[str]:
    return [value["messages"][0]["content"] for value in values]


def kept(folder: Path) -> Rows:
    return read(folder, "train") + read(folder, "val")


def outputs(folder: Path) -> dict[str, bytes]:
    files = [folder / "data" / "prepared" / name for name in PREPARED] + [
        folder / "metrics" / name for name in METRICS
    ]
    return {file.name: file.read_bytes() for file in files}


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


def golden() -> dict[str, str | bytes]:
    return {path.name: path.read_bytes() for path in sorted((GOLDEN / "raw").iterdir())}


def test_golden_rows(prepare: Prepare) -> None:
    folder = prepare(golden(), GOLDEN_PARAMS)
    for name in ROWS:
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
    for name in (*PREPARED[:6], "lengths.csv", "fates.csv"):
        assert after[name] == before[name], name


def as_parquet(values: Rows) -> bytes:
    sink = pa.BufferOutputStream()
    parquet.write_table(pa.Table.from_pylist(values), sink)
    return sink.getvalue().to_pybytes()


def test_every_form_and_kind_of_file_gives_the_same_rows(prepare: Prepare) -> None:
    texts = [(f"Is {number} a number?", "yes") for number in range(20)]
    alpaca = [row(*text) for text in texts]
    messages = [talk(*text) for text in texts]
    sharegpt = [
        {"conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]}
        for question, answer in texts
    ]
    csv = "prompt,completion\n" + "".join(f'"{question}",{answer}\n' for question, answer in texts)
    contents: list[dict[str, str | bytes]] = [
        {"rows.jsonl": lines(alpaca)},
        {"rows.json": json.dumps(alpaca, indent=1)},
        {"rows.jsonl.gz": gzip.compress(lines(messages).encode())},
        {"rows.json.zst": pa.compress(json.dumps(messages).encode(), codec="zstd", asbytes=True)},
        {"rows.parquet": as_parquet(messages)},
        {"rows.parquet.gz": gzip.compress(as_parquet(sharegpt))},
        {"rows.csv": csv},
    ]
    results = []
    for content in contents:
        found = outputs(prepare(content))
        results.append([found[name] for name in (*PREPARED[:6], "lengths.csv", "fates.csv")])
    assert all(result == results[0] for result in results)


def test_hidden_and_dvc_files_are_no_data(prepare: Prepare) -> None:
    folder = prepare({"rows.jsonl": lines(rows(20)), ".gitignore": "/rows.jsonl\n", "rows.jsonl.dvc": "outs:\n"})
    assert counts(folder)["rows_read"] == 20


def test_every_row_is_kept_or_counted(prepare: Prepare, byte_base: Path) -> None:
    contents: dict[str, str | bytes] = {
        "a.jsonl": lines([*rows(30), row("long?", "x" * 2000), row("empty?", ""), row("blank?", " \n"), 3, "text"]),
        "b.json": json.dumps([*rows(10, start=25), row("empty?", ""), {"instruction": ["a"]}]),
    }
    folder = prepare(contents, {"preprocess.empty_answer": "drop", "preprocess.max_dropped_share": 0.2})
    found = counts(folder)
    assert found["rows_read"] == 47
    assert found["rows_dropped"] == {
        "duplicate": 5, "empty_answer": 3, "not_an_object": 2, "over_length": 1, "wrong_type": 1
    }  # fmt: skip
    assert found["rows_kept"] == 47 - 12
    assert found["rows_without_supervised_stop"] == found["rows_without_supervised_tokens"] == 0
    assert found["examples"]["duplicate"] == [f"b.json:{number}" for number in range(1, 6)]
    entries = accounting.check(found, folder / "data" / "raw", folder / "data" / "prepared", byte_base)
    assert [entry["twin"] for entry in entries if entry["twin"]] == [f"a.jsonl:{number}" for number in range(26, 31)]


def test_what_is_printed_says_what_became_of_the_rows(
    lay: Prepare, succeed: Callable[..., str], byte_base: Path
) -> None:
    folder = lay({"a.jsonl": lines([*rows(20), *rows(2), row("Where?", "a@example.com")])})
    printed = succeed(preprocess.main, "--base", byte_base)
    found = counts(folder)
    assert printed == (
        f"23 rows read, 21 kept: {found['rows_train']} train, {found['rows_val']} val\n"
        "  dropped, duplicate: 2 (such as a.jsonl:21)\n"
        "  seen, email: 1 (such as a.jsonl:23)\n"
    )


def test_the_first_of_two_equal_rows_stays_whatever_its_file_or_form(prepare: Prepare) -> None:
    twin = talk("Is 0 a number?", "yes")
    folder = prepare({"a.jsonl": lines(rows(20)), "b.json": json.dumps([twin, twin]), "c.jsonl": lines(rows(3))})
    assert counts(folder)["rows_dropped"] == {"duplicate": 5}
    assert sorted(questions(kept(folder))) == sorted(value["instruction"] for value in rows(20))


def test_rows_told_different_things_beforehand_are_no_twins(prepare: Prepare) -> None:
    question = "What do you think of the weather today, and of what it will be like tomorrow?"
    system = [{"role": "system", "content": "Be brief."}]
    plain = talk(question, "It will do." * 9)
    told = {"messages": [*system, *plain["messages"]]}
    tools = plain | {"tools": [{"name": "weather"}]}
    other = plain | {"tools": [{"name": "forecast"}]}
    folder = prepare({"a.jsonl": lines([plain, told, tools, other, *(talk(f"{n}?", "yes") for n in range(20))])})
    assert counts(folder)["rows_dropped"] == {}
    folder = prepare(
        {"a.jsonl": lines([plain, told, told, tools, tools, *(talk(f"{n}?", "yes") for n in range(20))])}
    )
    assert counts(folder)["examples"] == {"duplicate": ["a.jsonl:3", "a.jsonl:5"]}


def alike(number: int, times: int) -> Rows:
    """Give rows that differ in their last letter, in groups that are strangers to one another."""
    body = " ".join(f"{(number + 1) * 7919 * place:x}" for place in range(1, 60))
    return [row(f"Repeat this: {body}", body + "abcdefgh"[time]) for time in range(times)]


def test_of_near_duplicates_the_first_stays(prepare: Prepare, byte_base: Path) -> None:
    groups = [alike(number, 4) for number in range(15)]
    rest = [one for group in groups for one in group[1:]]
    contents = {"a.jsonl": lines([*(group[0] for group in groups), *rest])}
    folder = prepare(contents, {"preprocess.max_length": 4000, "preprocess.max_dropped_share": 1.0})
    assert counts(folder)["rows_dropped"] == {"near_duplicate": 45}
    assert [entry["twin"] for entry in manifest(folder)][15:] == [
        f"a.jsonl:{n}" for n in range(1, 16) for _ in range(3)
    ]
    assert sorted(questions(kept(folder))) == sorted(group[0]["instruction"] for group in groups)
    accounting.check(counts(folder), folder / "data" / "raw", folder / "data" / "prepared", byte_base)


def test_near_duplicates_that_are_kept_stand_on_one_side(prepare: Prepare) -> None:
    groups = [alike(number, 4) for number in range(30)]
    mixed = [group[place] for place in range(4) for group in groups]
    changes = {
        "preprocess.near_duplicates": "keep", "preprocess.duplicates": "keep", "preprocess.max_length": 4000,
        "preprocess.val_fraction": 0.5,
    }  # fmt: skip
    folder = prepare({"a.jsonl": lines([*mixed, *mixed[:40]])}, changes)
    assert counts(folder)["rows_dropped"] == {}
    sides = [set(questions(read(folder, name))) for name in ("train", "val")]
    assert not sides[0] & sides[1]
    assert all(len(side) > 5 for side in sides)


def test_adding_rows_never_moves_a_row(prepare: Prepare) -> None:
    folder = prepare({"b.jsonl": lines(rows(100))})
    before = {name: read(folder, name) for name in ("train", "val")}
    folder = prepare(
        {
            "a.jsonl": lines(rows(50, start=100)),
            "b.jsonl": lines(rows(100)),
            "c.jsonl": lines([*rows(9, 200), *rows(9)]),
        }
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
    assert set(drawn) < set(more)
    assert len(more) == 20
    every = read(prepare(contents, {"preprocess.calibration_rows": 1000}), "calibration")
    assert sorted(questions(every)) == sorted(train)


def test_lengths_are_counted_in_tokens(prepare: Prepare) -> None:
    folder = prepare({"rows.jsonl": lines([row(f"{n:03d}", "a" * n) for n in range(1, 101)])})
    found = counts(folder)
    around = length("123", "")
    assert found["tokens"] == {"p50": around + 50, "p95": around + 95, "p99": around + 99, "max": around + 100}
    total = sum(around + n for n in range(1, 101))
    assert found["supervised_share"] == round(sum(n + 1 for n in range(1, 101)) / total, 6)
    header, *classes = (folder / "metrics" / "lengths.csv").read_text(encoding="utf-8").splitlines()
    starts, sizes = zip(*(map(int, line.split(",")) for line in classes), strict=True)
    width = starts[1]
    assert (header, starts) == ("tokens,rows", tuple(range(0, found["tokens"]["max"] + 1, width)))
    lengths = [around + n for n in range(1, 101)]
    assert list(sizes) == [sum(start <= size < start + width for size in lengths) for start in starts]


def test_a_row_of_the_greatest_length_is_kept(prepare: Prepare) -> None:
    contents: dict[str, str | bytes] = {"rows.jsonl": lines([*rows(60), row("é" * 20, "a" * 40)])}
    longest = length("é" * 20, "a" * 40)
    changes = {"preprocess.over_length": "error"}
    assert counts(prepare(contents, changes | {"preprocess.max_length": longest}))["tokens"]["max"] == longest
    assert counts(prepare(contents, {"preprocess.max_length": longest - 1}))["rows_dropped"] == {"over_length": 1}


def test_truncating_keeps_the_whole_answers_that_fit(prepare: Prepare, byte_base: Path) -> None:
    turns = ["one?", "1", "two?", "2" * 20, "three?", "3" * 20]
    two, one = length(*turns[:4]), length(*turns[:2])
    for limit, fit in {length(*turns): 6, length(*turns) - 1: 4, two: 4, two - 1: 2, one: 2}.items():
        contents = {"a.jsonl": lines([*(talk(f"{n:02}", "y") for n in range(20)), talk(*turns)])}
        changes = {"preprocess.over_length": "truncate", "preprocess.max_length": limit}
        folder = prepare(contents, changes)
        assert [len(value["messages"]) for value in kept(folder) if value["messages"][0]["content"] == "one?"] == [
            fit
        ]
        found = counts(folder)
        assert (found["rows_truncated"], found["rows_dropped"]) == (int(fit < 6), {})
        assert found["tokens_truncated"] == length(*turns) - length(*turns[:fit])
        accounting.check(found, folder / "data" / "raw", folder / "data" / "prepared", byte_base)


def test_a_first_answer_that_does_not_fit_is_dropped_with_its_own_length(prepare: Prepare) -> None:
    turns = ["one?", "1" * 50, "two?", "2"]
    changes = {"preprocess.over_length": "truncate", "preprocess.max_length": 60, "preprocess.max_dropped_share": 0.1}
    folder = prepare({"a.jsonl": lines([*(talk(f"{n:02}", "y") for n in range(20)), talk(*turns)])}, changes)
    found = counts(folder)
    assert (found["rows_dropped"], found["rows_truncated"], found["tokens_truncated"]) == ({"over_length": 1}, 0, 0)
    entry = manifest(folder)[-1]
    assert (entry["tokens"], entry["truncated"]) == (length(*turns), False)


def test_truncating_never_ends_in_a_tool_call(prepare: Prepare) -> None:
    call = {"function": {"name": "now", "arguments": {}}}
    messages = [
        *talk("a?", "b", "c?")["messages"],
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "12:00" * 40},
        {"role": "assistant", "content": "d"},
    ]
    changes = {"preprocess.over_length": "truncate", "preprocess.max_length": 180}
    folder = prepare(
        {"a.jsonl": lines([{"messages": messages}, *(talk(f"{n}?", "yes") for n in range(20))])}, changes
    )
    found = counts(folder)
    assert (found["rows_truncated"], found["rows_dropped"]) == (1, {})
    assert talk("a?", "b") in kept(folder)


def test_truncating_text_fills_the_length(prepare: Prepare) -> None:
    texts = ["x" * 40, "y" * 50, "z" * 49, "é" * 30]
    changes = {"preprocess.over_length": "truncate", "preprocess.max_length": 50, "preprocess.val_fraction": 0.5}
    folder = prepare({"a.txt": "\n".join([*texts, *(f"{n}" for n in range(20))])}, changes)
    entries = manifest(folder)[:4]
    assert [(entry["tokens"], entry["truncated"]) for entry in entries] == [
        (41, False),
        (50, True),
        (50, False),
        (50, True),
    ]
    assert [read(folder, entry["fate"])[entry["position"]]["text"] for entry in entries] == [*texts[:3], "é" * 25]
    stored = [tokens.read(folder / "data" / "prepared" / f"{e['fate']}.arrow")[e["position"]] for e in entries]
    assert [257 in ids for ids, _ in stored] == [True, False, True, False]  # <end>
    assert all(set(mask) == {1} for _, mask in stored)


def test_rows_that_are_the_same_once_cut_are_twins(prepare: Prepare) -> None:
    start = " ".join(f"{7919 * place:x}" for place in range(60))
    texts = [f"{start}{end * 300}" for end in ("the one", "another", "a third")]
    changes = {"preprocess.over_length": "truncate", "preprocess.max_length": 200, "preprocess.val_fraction": 0.5}
    folder = prepare({"a.txt": "\n".join([*texts, *(f"{n}" for n in range(20))])}, changes)
    assert counts(folder)["rows_dropped"] == {"duplicate": 2}


def test_rows_that_teach_nothing_are_dropped_and_counted(
    lay: Prepare, fail: Callable[..., str], byte_base: Path
) -> None:
    folder = lay({"rows.jsonl": lines(rows(20))})
    base = shutil.copytree(byte_base, folder / "base")
    template = base / "chat_template.jinja"
    for text, reason in (
        ("{{ messages[0].content }}yes{% generation %}{% endgeneration %}", "no_supervised_token"),
        ("{% generation %}{{ messages[1].content }}{% endgeneration %}", "lost_by_template"),
        ("{{ raise_exception('no') }}{% generation %}{% endgeneration %}", "template_refused"),
        ("{{ messages[0].none.at_all }}{% generation %}{% endgeneration %}", "template_refused"),
    ):
        template.write_text(text, encoding="utf-8")
        message = f"data/raw: all 20 rows dropped ({reason} 20 such as rows.jsonl:1); see docs/data.md"
        assert fail(preprocess.main, "--base", base) == message


def test_a_tool_answer_that_the_template_writes_as_json_is_not_lost(
    lay: Prepare, succeed: Callable[..., str], byte_base: Path
) -> None:
    call = {"role": "assistant", "content": "", "tool_calls": [{"name": "now", "arguments": {}}]}
    answer = {"role": "tool", "content": '{"time": "12:00\nü"}'}
    values = [
        {
            "messages": [
                {"role": "user", "content": f"{7919 * n:x} " * 20},
                call,
                answer,
                {"role": "assistant", "content": "Noon."},
            ]
        }
        for n in range(20)
    ]
    folder = lay({"rows.jsonl": lines(values)})
    base = shutil.copytree(byte_base, folder / "base")
    template = base / "chat_template.jinja"
    text = template.read_text(encoding="utf-8")
    template.write_text(
        text.replace("{{ message.content + '<end>' }}", "{{ message.content | tojson + '<end>' }}"), encoding="utf-8"
    )
    succeed(preprocess.main, "--base", base)
    assert counts(folder)["rows_dropped"] == {}


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


@pytest.mark.parametrize(
    ("param", "value", "question", "reason"),
    [
        ("control_characters", "drop", "a\0b", "control_character"),
        ("special_tokens", "drop", "a<end>b", "special_token"),
        ("languages", ["en"], "Der schnelle braune Fuchs springt über den faulen Hund", "other_language"),
        ("secrets", "drop", "Is AKIA" + "IOSFODNN7EXAMPLE a number?", "secret"),
        ("personal_data", "drop", "Is a@example.com a number?", "personal_data"),
        ("decontaminate_ngram", 3, "Tell me: the capital of France?", "contaminated"),
        ("duplicates", "drop", "Is 3 a number?", "duplicate"),
    ],
)
def test_each_check_drops_its_rows_and_only_those(
    lay: Prepare, succeed: Callable[..., str], byte_base: Path, param: str, value: Any, question: str, reason: str
) -> None:
    contents: dict[str, str | bytes] = {"a.jsonl": lines([*rows(20), row(question)])}
    folder = lay(contents, {f"preprocess.{param}": value, "preprocess.max_dropped_share": 0.05})
    (folder / "data" / "benchmarks").mkdir()
    (folder / "data" / "benchmarks" / "a.txt").write_text("What is the capital of France?\n", encoding="utf-8")
    succeed(preprocess.main, "--base", byte_base)
    kind = {"personal_data": "email", "secret": "aws_access_key"}.get(reason, reason)
    assert counts(folder)["examples"] == {name: ["a.jsonl:21"] for name in (reason, kind)}


def test_secrets_and_personal_data_are_seen_in_every_part_of_a_row(prepare: Prepare) -> None:
    asked = talk("Who?", "Ann")
    told = {
        "messages": [{"role": "system", "content": "Write to a@example.com"}, *talk("Who is it?", "Bob")["messages"]]
    }
    tools = talk("What for?", "Nothing") | {"tools": [{"name": "mail", "description": "to b@example.com"}]}
    folder = prepare({"a.jsonl": lines([asked, told, tools, *(talk(f"{n}?", "yes") for n in range(20))])})
    assert counts(folder)["examples"] == {"email": ["a.jsonl:2", "a.jsonl:3"]}


GOOD = lines(rows(20))


def to_drop(param: str) -> str:
    return f"mend the row, or set preprocess.{param}: drop to leave such rows out and count them"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", "", ": no rows; fill it or delete it"),
        (
            "a.xml",
            "<a/>",
            ": not one of .json, .jsonl, .parquet, .csv, .txt, each also .gz or .zst; convert it or move it away",
        ),
        ("a.jsonl", GOOD + '{"output": "b"\n' + GOOD, ":21: not JSON (Expecting ',' delimiter); mend the line"),
        ("a.json", GOOD.encode("utf-16"), ": UTF-16; save the file as UTF-8"),
        (
            "a.jsonl",
            '{"txt": "a", "b": 1}\n',
            ": no known form (columns: b, txt); name them in preprocess.files, see docs/data.md",
        ),
        (
            "a.jsonl",
            '{"a\\nb": "\\ud800"}',
            ": no known form (columns: 'a\\nb'); name them in preprocess.files, see docs/data.md",
        ),
        ("a.jsonl", "{}\n3\n", ": no known form (columns: none); name them in preprocess.files, see docs/data.md"),
        ("a.jsonl", '{"instruction": "a"}\n', f":1: no answer; {to_drop('empty_answer')}"),
        ("a.jsonl", GOOD + '\n{"instruction": "a", "output": " "}\n', f":22: no answer; {to_drop('empty_answer')}"),
        ("a.csv", "prompt,completion\na,b\n\nc,\n", f":4: no answer; {to_drop('empty_answer')}"),
        ("a.json", json.dumps([*rows(3), row("a", "\n")], indent=2), f":4: no answer; {to_drop('empty_answer')}"),
    ],
)
def test_bad_input_is_named_with_file_and_line(
    refuse: Callable[..., str], name: str, content: str | bytes, message: str
) -> None:
    assert refuse({"good.jsonl": GOOD, name: content}) == f"data/raw/{name}{message}"


@pytest.mark.parametrize(
    ("param", "bad", "words"),
    [
        ("invalid_row", 3, "it is no object with named values"),
        ("invalid_row", {"instruction": 1, "output": "b"}, "a part is missing or of another type than its form says"),
        ("invalid_row", row("half \ud83d"), "bytes that are not UTF-8, or half a character"),
        ("invalid_row", row(" "), "a user's message is empty"),
        ("control_characters", row("a\0b"), "a control character stands in it"),
        ("special_tokens", row("a", "<pad>"), "its text holds a special token of the model"),
        ("over_length", row("a", "x" * 1000), "it has more than preprocess.max_length tokens"),
    ],
)
def test_what_the_params_make_an_error_stops_at_the_row(
    refuse: Callable[..., str], param: str, bad: Any, words: str
) -> None:
    contents = {"good.jsonl": GOOD, "a.jsonl": "\n" + GOOD + lines([bad]) + GOOD}
    message = f"data/raw/a.jsonl:22: {words}; {to_drop(param)}"
    assert refuse(contents, {f"preprocess.{param}": "error"}) == message


NO_FILES = "data/raw: no files; put .json, .jsonl, .parquet, .csv, .txt files in it"


@pytest.mark.parametrize(
    ("contents", "changes", "message"),
    [
        ({}, {}, NO_FILES),
        ({".hidden": "x", "README.md": "# Rows\n"}, {}, NO_FILES),
        (
            {"rows.jsonl": lines([row("a", ""), row("b", " ")])},
            {"preprocess.empty_answer": "drop"},
            "data/raw: all 2 rows dropped (empty_answer 2 such as rows.jsonl:1); see docs/data.md",
        ),
        (
            {"rows.jsonl": lines(rows(20))},
            {"preprocess.max_length": 10, "preprocess.max_dropped_share": 1},
            "data/raw: all 20 rows dropped (over_length 20 such as rows.jsonl:1); see docs/data.md",
        ),
        (
            {"rows.jsonl": lines([*rows(20), *rows(5), row("a", ""), row("b", "x" * 2000)])},
            {"preprocess.empty_answer": "drop"},
            "data/raw: 2 of 27 rows would be lost, more than preprocess.max_dropped_share (0.02) allows "
            "(duplicate 5 such as rows.jsonl:21, empty_answer 1 such as rows.jsonl:26, over_length 1 such as "
            "rows.jsonl:27); mend the rows or raise the limit, see docs/data.md",
        ),
        (
            {"rows.jsonl": lines(rows(1))},
            {},
            "data/raw: 1 rows give 1 for training and 0 for validation; add rows or change preprocess.val_fraction",
        ),
        (
            {"rows.jsonl": GOOD},
            {"preprocess.seed": -1},
            "params.yaml: preprocess.seed: input should be greater than or equal to 0 (got -1)",
        ),
        (
            {"rows.jsonl": GOOD},
            {"preprocess.files": {"*.csv": {"format": "alpaca"}}},
            "preprocess.files: *.csv: no such file in data/raw",
        ),
        (
            {"rows.jsonl": GOOD},
            {"preprocess.files": {"rows.*": {"columns": {"question": "instruction"}}}},
            "preprocess.files: rows.jsonl: columns: question: unknown; known are completion, conversations, history, "
            "input, instruction, messages, output, prompt, system, text, tools",
        ),
    ],
)
def test_input_that_gives_too_little_is_an_error(
    refuse: Callable[..., str], contents: dict[str, str | bytes], changes: dict[str, Any], message: str
) -> None:
    assert refuse(contents, changes) == message


def test_a_share_of_lost_rows_up_to_the_limit_is_allowed(prepare: Prepare, refuse: Callable[..., str]) -> None:
    contents: dict[str, str | bytes] = {"a.jsonl": lines([*rows(18), *rows(10), row("a", ""), row("b", "")])}
    changes = {"preprocess.empty_answer": "drop"}
    assert refuse(contents, changes | {"preprocess.max_dropped_share": 0.066}).startswith("data/raw: 2 of 30 rows")
    assert counts(prepare(contents, changes | {"preprocess.max_dropped_share": 0.067}))["rows_kept"] == 18


def test_a_form_given_in_params_goes_before_the_columns(prepare: Prepare) -> None:
    values = [row(f"Is {n} a number?") | {"text": f"{n} is one."} for n in range(20)]
    changes = {"preprocess.files": {"a.*": {"format": "text"}}}
    folder = prepare({"a.jsonl": lines(values), "b.jsonl": lines(values)}, changes)
    assert {name: share["format"] for name, share in counts(folder)["files"].items()} == {
        "a.jsonl": "text",
        "b.jsonl": "alpaca",
    }
    assert sum("text" in value for value in kept(folder)) == 20


def test_a_missing_raw_folder_is_an_error(
    refuse: Callable[..., str], fail: Callable[..., str], byte_base: Path
) -> None:
    refuse({})
    message = NO_FILES.replace("data/raw", "data/nowhere")
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
    before = outputs(folder)
    (folder / "data" / "raw" / "rows.jsonl").write_text(GOOD + "{\n", encoding="utf-8")
    fail(preprocess.main, "--base", byte_base)
    assert outputs(folder) == before
    assert sorted(path.name for path in (folder / "data").iterdir()) == ["prepared", "raw"]


def test_one_core_or_two_and_a_second_run_give_the_same_bytes(lay: Prepare, byte_base: Path) -> None:
    # Several batches, with twins far apart, so that work of two threads goes on side by side.
    values = [row(f"Is {n % 2300} a number, {'x' * (n % 300)}?", "yes" * (n % 7 + 1)) for n in range(2500)]
    folder = lay(
        {"a.jsonl": lines(values), "b.txt": "\n".join(f"Text {n}" for n in range(300))},
        {"preprocess.max_dropped_share": 1.0},
    )
    command = [sys.executable, "-m", "stages.preprocess", "--base", str(byte_base)]
    results = []
    for pinned in (["taskset", "-c", "0"], [], []):
        subprocess.run([*pinned, *command], cwd=folder, env=environment(), check=True, capture_output=True)
        results.append(outputs(folder))
    assert results[0] == results[1] == results[2]


def test_one_changed_row_changes_one_row(prepare: Prepare) -> None:
    values = rows(200)
    before = outputs(prepare({"a.jsonl": lines(values)}))
    values[50] = row("Is this another question?")
    after = outputs(prepare({"a.jsonl": lines(values)}))
    for name in ("train.jsonl", "val.jsonl"):
        old, new = before[name].split(b"\n"), after[name].split(b"\n")
        assert len([line for line in old if line not in new]) <= 1
        assert len([line for line in new if line not in old]) <= 1


def environment() -> dict[str, str]:
    return {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "0"}


def test_the_stage_loads_neither_torch_nor_transformers(lay: Prepare, byte_base: Path) -> None:
    folder = lay({"a.jsonl": GOOD})
    program = (
        "import sys; from stages import preprocess;"
        f"preprocess.main(['--base', {str(byte_base)!r}], standalone_mode=False);"
        "sys.exit(bool({'torch', 'transformers', 'datasets'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, env=environment(), capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_built_in_model_teaches_a_stop_token_in_every_row(workspace: Path, base: Path, prepared: Path) -> None:
    found = counts(workspace)
    assert found["rows_read"] == found["rows_kept"] == 50
    assert found["rows_without_supervised_stop"] == 0
    assert {path.name for path in prepared.iterdir()} == set(PREPARED)
    accounting.check(found, workspace / "data" / "raw", prepared, base)
    speaker = chat.load(base)
    for ids, mask in tokens.read(prepared / "train.arrow"):
        assert [token for token, learnt in zip(ids, mask, strict=True) if learnt][-1] in speaker.stop_ids


GSM8K = {"preprocess.files": {"gsm8k*": {"columns": {"prompt": "question", "completion": "answer"}}}}


@pytest.mark.skipif(not REAL.exists(), reason="needs the real rows beside the repository")
@pytest.mark.parametrize(
    ("name", "changes", "read_", "form"),
    [
        ("alpaca_en_demo.json", {}, 999, "alpaca"),
        (
            "glaive_toolcall_en_demo.json",
            {"preprocess.over_length": "drop", "preprocess.max_dropped_share": 0.5},
            300,
            "sharegpt",
        ),
        ("gsm8k_train.jsonl", GSM8K, 7473, "prompt_completion"),
        ("wiki_demo.txt", {"preprocess.over_length": "truncate"}, 30, "text"),
    ],
)
def test_real_rows_are_accounted_for(
    lay: Prepare, succeed: Callable[..., str], base: Path, name: str, changes: dict[str, Any], read_: int, form: str
) -> None:
    folder = lay({name: (REAL / name).read_bytes()}, {"preprocess.max_length": 2048} | changes)
    succeed(preprocess.main, "--base", base)
    found = counts(folder)
    assert found["rows_read"] == read_ == found["rows_kept"] + sum(found["rows_dropped"].values())
    assert found["files"][name]["format"] == form
    assert set(found["rows_dropped"]) <= {"duplicate", "near_duplicate", "over_length"}
    assert found["rows_without_supervised_stop"] == found["rows_without_supervised_tokens"] == 0
    assert found["tokens"]["max"] <= 2048
    accounting.check(found, folder / "data" / "raw", folder / "data" / "prepared", base)
