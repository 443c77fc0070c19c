"""Fuzz: for any rows and bytes, preprocess accounts for every row or fails with one line.

Rows of every format with values of any type, and files of every type with bytes flipped, cut and inserted.
"""

import csv
import gzip
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import accounting
import pyarrow as pa
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet
from ruamel.yaml import YAML
from stage_runs import DEFAULTS

from stages.base.tiny_tokenizer import CHAT_TEMPLATE
from stages.preprocess import __main__ as stage

pytestmark = pytest.mark.slow  # some four hundred runs of the stage
PARAMS = YAML(typ="safe", pure=True).load(DEFAULTS.read_text(encoding="utf-8"))["preprocess"]
KINDS = ("json", "jsonl", "parquet", "csv", "txt")
PACKINGS: dict[str, Callable[[bytes], bytes]] = {
    "": lambda data: data,
    ".gz": lambda data: gzip.compress(data, mtime=0),
    ".zst": lambda data: pa.compress(data, codec="zstd", asbytes=True),
}
# Together they have every policy, and lengths that some rows exceed.
SETTINGS: list[dict[str, Any]] = [
    {"control_characters": "drop", "over_length": "drop"},
    {"control_characters": "strip", "over_length": "truncate", "special_tokens": "keep", "max_length": 90},
    {"control_characters": "keep", "near_duplicates": "keep", "duplicates": "keep", "max_length": 150},
    {"secrets": "drop", "personal_data": "drop", "languages": ["en"], "decontaminate_ngram": 2},
    {"invalid_row": "error", "empty_answer": "error", "special_tokens": "error", "max_dropped_share": 0.1},
]
FUZZ = settings(
    max_examples=120,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)


@pytest.fixture(scope="session")
def fuzz(tmp_path_factory: pytest.TempPathFactory, byte_base: Path) -> Path:
    """A folder with a model whose template supports tools, a benchmark, and params for each of SETTINGS."""
    folder = tmp_path_factory.mktemp("fuzz")
    shutil.copytree(byte_base, folder / "base")
    template = CHAT_TEMPLATE.replace("<|im_end|>", "<end>")
    (folder / "base" / "chat_template.jinja").write_text(template, encoding="utf-8")
    (folder / "benchmarks").mkdir()
    (folder / "benchmarks" / "a.csv").write_text("question,answer\nWho is it?,\n", encoding="utf-8")
    for number, changes in enumerate(SETTINGS):
        section = PARAMS | {"val_fraction": 0.5, "max_dropped_share": 1, "empty_answer": "drop"} | changes
        with (folder / f"{number}.yaml").open("w", encoding="utf-8") as file:
            YAML(typ="safe", pure=True).dump({"preprocess": section}, file)
    return folder


def run(folder: Path, params: int, contents: dict[str, bytes]) -> dict[str, Any] | None:
    """Run the stage on the files, and return its metrics, or None where it failed with one line."""
    for name in ("raw", "out"):
        shutil.rmtree(folder / name, ignore_errors=True)
    (folder / "raw").mkdir()
    for name, content in contents.items():
        (folder / "raw" / name).write_bytes(content)
    paths = {
        "params": f"{params}.yaml", "raw": "raw", "benchmarks": "benchmarks", "base": "base", "out": "out",
        "metrics": "metrics.json", "lengths": "lengths.csv", "outcomes": "outcomes.csv",
    }  # fmt: skip
    arguments = [part for name, path in paths.items() for part in (f"--{name}", str(folder / path))]
    result = CliRunner().invoke(stage.main, arguments)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    if result.exit_code == 0:
        return json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    assert (result.exit_code, result.stdout) == (1, "")
    message = result.stderr.rpartition("\r")[2]
    assert message.startswith("Error: ") and message.find("\n") == len(message) - 1, result.stderr
    assert not (folder / "out").exists()
    return None


def check(folder: Path, counts: dict[str, Any]) -> None:
    accounting.check(counts, folder / "raw", folder / "out", folder / "base")


# Texts that a check searches for, and texts that may break a step.
PITFALLS = [
    *(
        "",
        " ",
        "yes",
        "Who is it?",
        "<end>",
        "<|im_start|>",
        "{{ 1 }}",
        "a\0b",
        "\x85",
        "\ufeff",
        "\u2028",
        "e\u0301",
        "😀",
    ),
    *("[]", "{", '{"a": 1}', "null", "x" * 70, "é" * 60, "mail a@example.com", "8.8.8.8"),
]
TEXTS = st.text(max_size=12) | st.sampled_from(PITFALLS)  # lone surrogates included
SCALARS = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | TEXTS
NAMES = st.sampled_from(["instruction", "input", "output", "messages", "role", "content", "text", "function", "name"])
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES | TEXTS, inner, max_size=3)
)


def mostly(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Return a fitting value seven times in eight, else any value."""
    return st.integers(0, 7).flatmap(lambda number: strategy if number else VALUES)


def some(**parts: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Return objects with the parts, or with some of them."""
    every = {name: mostly(part) for name, part in parts.items()}
    return st.fixed_dictionaries(every) | st.fixed_dictionaries({}, optional=every)


def turns(roles: list[str], role: str, content: str) -> st.SearchStrategy[list[dict[str, Any]]]:
    """Return conversations whose roles mostly alternate."""
    ordered = st.lists(TEXTS, min_size=2, max_size=5).map(
        lambda texts: [{role: roles[number % 2], content: text} for number, text in enumerate(texts)]
    )
    return ordered | st.lists(mostly(some(**{role: st.sampled_from(roles), content: TEXTS})), max_size=4)


FUNCTION = some(name=TEXTS, arguments=st.dictionaries(TEXTS, VALUES, max_size=2) | TEXTS)
CALL = FUNCTION | some(id=TEXTS, type=st.just("function"), function=FUNCTION)
CALLED = st.tuples(TEXTS, st.lists(CALL, min_size=1, max_size=2), TEXTS).map(
    lambda drawn: [
        {"role": "user", "content": drawn[0]},
        {"role": "assistant", "content": None, "tool_calls": drawn[1]},
        *({"role": "tool", "content": drawn[2]} for _ in drawn[1]),
        {"role": "assistant", "content": drawn[2]},
    ]
)
TOOLS = st.lists(some(name=TEXTS, parameters=VALUES) | some(type=TEXTS, function=some(name=TEXTS)), max_size=2)
MESSAGES = turns(["user", "assistant", "system", "tool"], "role", "content") | CALLED
FORMATS: dict[str, st.SearchStrategy[Any]] = {
    "messages": some(messages=MESSAGES, tools=TOOLS | TOOLS.map(json.dumps)),
    "sharegpt": some(
        conversations=turns(["human", "gpt", "function_call", "observation"], "from", "value"),
        tools=TOOLS,
        system=TEXTS,
    ),
    "alpaca": some(
        instruction=TEXTS, input=TEXTS, output=TEXTS, history=st.lists(st.lists(TEXTS, max_size=3), max_size=2)
    ),
    "prompt_completion": some(prompt=TEXTS | MESSAGES, completion=TEXTS | MESSAGES, tools=TOOLS),
    "text": some(text=TEXTS),
}
GOOD: dict[str, Callable[[int], dict[str, Any]]] = {
    "messages": lambda n: {
        "messages": [{"role": "user", "content": f"{n}?"}, {"role": "assistant", "content": "yes"}], "tools": []
    },
    "sharegpt": lambda n: {"conversations": [{"from": "human", "value": f"{n}?"}, {"from": "gpt", "value": "yes"}]},
    "alpaca": lambda n: {"instruction": f"{n}?", "input": "", "output": "yes"},
    "prompt_completion": lambda n: {"prompt": f"{n}?", "completion": "yes"},
    "text": lambda n: {"text": f"{n} is a number"},
}  # fmt: skip


def written(kind: str, rows: list[Any]) -> bytes:
    """Return rows as a file of the type. CSV and text hold values as JSON text; so does Parquet for mixed types."""
    if kind == "json":
        return json.dumps(rows).encode()
    if kind == "jsonl":
        return "".join(json.dumps(row) + "\n" for row in rows).encode()
    objects = [row for row in rows if isinstance(row, dict)]
    names = sorted({name for row in objects for name in row})
    if kind == "csv":
        buffer = io.StringIO(newline="")
        lines = [[cell(row.get(name)) for name in names] for row in objects]
        csv.writer(buffer).writerows([names, *lines])
        return buffer.getvalue().encode("utf-8", "surrogatepass")
    if kind == "txt":
        return "\n".join(cell(row) for row in rows).encode("utf-8", "surrogatepass")
    columns = {}
    for name in names:
        values = [row.get(name) for row in objects]
        try:
            column = pa.array(values)
            parquet.write_table(pa.table({"": column}), io.BytesIO())
        except (pa.ArrowException, UnicodeEncodeError, OverflowError):
            column = pa.array([cell(value).encode("utf-8", "replace").decode() for value in values])
        columns[name.encode("utf-8", "replace").decode()] = column
    sink = io.BytesIO()
    parquet.write_table(pa.table(columns), sink)
    return sink.getvalue()


def cell(value: Any) -> str:
    return value if isinstance(value, str) else "" if value is None else json.dumps(value)


@FUZZ
@given(
    data=st.data(),
    name=st.sampled_from(sorted(FORMATS)),
    kind=st.sampled_from(KINDS),
    params=st.sampled_from(range(5)),
)
def test_any_rows_are_accounted_for_or_rejected(
    fuzz: Path, data: st.DataObject, name: str, kind: str, params: int
) -> None:
    drawn = data.draw(st.lists(mostly(FORMATS[name]), min_size=1, max_size=6))
    rows = [GOOD[name](0), *drawn, *(GOOD[name](number) for number in range(1, 7))]
    counts = run(fuzz, params, {f"a.{kind}": written(kind, rows)})
    if counts is not None:
        if kind in ("json", "jsonl"):
            assert counts["rows_read"] == len(rows)
        check(fuzz, counts)


def damage(content: bytes, damages: list[tuple[str, float, bytes]]) -> bytes:
    """Flip, cut out or insert bytes, at positions given as shares of the length."""
    for way, place, some_bytes in damages:
        at = int(place * len(content))
        if way == "flip":
            flipped = bytes(one ^ other for one, other in zip(content[at:], some_bytes, strict=False))
            content = content[:at] + flipped + content[at + len(flipped) :]
        elif way == "cut":
            content = content[:at] + content[at + len(some_bytes) ** 2 :]
        elif way == "end":
            content = content[:at]
        else:
            content = content[:at] + some_bytes + content[at:]
    return content


DAMAGES = st.lists(
    st.tuples(
        st.sampled_from(["flip", "flip", "insert", "cut", "end"]),
        st.floats(0, 1),
        st.binary(min_size=1, max_size=8)
        | st.sampled_from([b'"', b"\n", b"}", b"\\", b"\xff", b"\xef\xbb\xbf", b"[", b"\0"]),
    ),
    min_size=1,
    max_size=3,
)


@FUZZ
@given(
    name=st.sampled_from(sorted(GOOD)),
    kind=st.sampled_from(KINDS),
    packing=st.sampled_from(sorted(PACKINGS)),
    outside=st.booleans(),
    damages=DAMAGES,
    params=st.sampled_from(range(5)),
)
def test_any_damage_is_accounted_for_or_rejected(
    fuzz: Path,
    name: str,
    kind: str,
    packing: str,
    outside: bool,
    damages: list[tuple[str, float, bytes]],
    params: int,
) -> None:
    content = written(kind, [GOOD[name](number) for number in range(20)])
    content = damage(PACKINGS[packing](content), damages) if outside else PACKINGS[packing](damage(content, damages))
    counts = run(fuzz, params, {f"a.{kind}{packing}": content})
    if counts is not None:
        check(fuzz, counts)


@FUZZ
@given(
    content=st.binary(max_size=60) | st.text(st.sampled_from('[]{}":,\\u d8\n'), max_size=40).map(str.encode),
    kind=st.sampled_from(KINDS),
    packing=st.sampled_from(sorted(PACKINGS)),
)
def test_any_bytes_are_accounted_for_or_rejected(fuzz: Path, content: bytes, kind: str, packing: str) -> None:
    counts = run(fuzz, 0, {f"a.{kind}{packing}": content})
    if counts is not None:
        check(fuzz, counts)
