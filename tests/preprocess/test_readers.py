"""Readers: every file type gives its rows with their lines, compressed or not; damage is reported with its line."""

import codecs
import csv
import gzip
import io
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from stages.preprocess import readers
from stages.preprocess.params import FileParams
from stages.preprocess.readers import read_rows

ROWS = [
    {"text": "one", "more": "1"},
    {"text": 'zwei "ü" 😀, \\n', "more": ""},
    {"text": "three\n\nlines\r\n", "more": "3"},
]
PACKINGS: dict[str, Callable[[bytes], bytes]] = {
    "": lambda data: data,
    ".gz": lambda data: gzip.compress(data, 1, mtime=0),
    ".zst": lambda data: pa.compress(data, codec="zstd", asbytes=True),
}


def json_lines(rows: list[Any]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def json_array(rows: list[Any]) -> bytes:
    return json.dumps(rows, indent=2).encode()


def as_parquet(rows: list[dict[str, Any]] | pa.Table) -> bytes:
    buffer = io.BytesIO()
    parquet.write_table(pa.Table.from_pylist(rows) if isinstance(rows, list) else rows, buffer)
    return buffer.getvalue()


def as_csv(rows: list[dict[str, str]]) -> bytes:
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue().encode()


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., list[tuple[int, Any, str]]]:
    """Write a file and read its rows: `read("a.jsonl", b"{}")`."""

    def read(name: str, data: bytes, sample_by: str = "line") -> list[tuple[int, Any, str]]:
        path = tmp_path / name
        path.write_bytes(data)
        return [tuple(row)[:3] for row in read_rows(path, FileParams(sample_by=sample_by))]  # type: ignore[arg-type]

    return read


@pytest.fixture
def refusal(tmp_path: Path) -> Callable[..., str]:
    """Write a file that cannot be read, and return the message without the folder."""

    def refusal(name: str, data: bytes) -> str:
        path = tmp_path / name
        path.write_bytes(data)
        with pytest.raises(click.ClickException) as caught:
            list(read_rows(path))
        assert "\n" not in caught.value.message
        return caught.value.message.removeprefix(f"{tmp_path}/")

    return refusal


@pytest.mark.slow
@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize(
    ("name", "data", "places"),
    [
        ("rows.json", json_array(ROWS), [1, 2, 3]),
        ("rows.json", json_lines(ROWS), [1, 2, 3]),
        ("rows.jsonl", json_lines(ROWS), [1, 2, 3]),
        ("rows.jsonl", json_array(ROWS), [1, 2, 3]),
        ("rows.parquet", as_parquet(ROWS), [1, 2, 3]),
        ("rows.csv", as_csv(ROWS), [2, 3, 4]),
        ("ROWS.JSONL", json_lines(ROWS), [1, 2, 3]),
    ],
    ids=["array", "lines in .json", "lines", "array in .jsonl", "parquet", "csv", "capitals"],
)
def test_every_kind_gives_the_same_rows(
    read: Callable[..., list[Any]], name: str, data: bytes, places: list[int], packing: str
) -> None:
    packed = name + (packing.upper() if name.isupper() else packing)
    found = read(packed, PACKINGS[packing](data))
    assert found == [(place, row, "") for place, row in zip(places, ROWS, strict=True)]


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize(
    ("sample_by", "expected"),
    [
        ("line", [(2, " one"), (3, "two"), (6, "three\tü"), (7, "four")]),
        ("paragraph", [(2, " one\r\ntwo"), (6, "three\tü\nfour")]),
        ("document", [(2, " one\r\ntwo\r\n  \r\n\nthree\tü\nfour")]),
    ],
)
def test_text_is_sampled_by_line_paragraph_or_document(
    read: Callable[..., list[Any]], packing: str, sample_by: str, expected: list[tuple[int, str]]
) -> None:
    data = "\n one\r\ntwo\r\n  \r\n\nthree\tü\nfour \n\n".encode()
    found = read("a.txt" + packing, PACKINGS[packing](data), sample_by)
    assert found == [(line, {"text": text}, "") for line, text in expected]


def spell(rows: list[Any], start: str, between: str, end: str) -> bytes:
    return (start + between.join(json.dumps(row) for row in rows) + end).encode()


@pytest.mark.parametrize(
    "data",
    [
        spell(ROWS, "[", ",", "]"),
        spell(ROWS, " \r\n\t[\n\n", " ,\n", "\n]\n\n"),
        codecs.BOM_UTF8 + spell(ROWS, "\n[", ",", "]"),
        codecs.BOM_UTF8 + spell(ROWS, "", "\r\n", ""),
        spell(ROWS, "", "\n", "\n"),
        json.dumps(ROWS, indent=7, ensure_ascii=False).encode(),
    ],
    ids=["compact", "spaced", "array with BOM", "lines with BOM and CRLF", "lines", "indented"],
)
def test_the_spelling_of_json_changes_nothing(read: Callable[..., list[Any]], data: bytes) -> None:
    assert [values for _, values, _ in read("a.json", data)] == ROWS


def test_blank_lines_are_not_rows_but_count_as_lines(read: Callable[..., list[Any]]) -> None:
    assert [line for line, *_ in read("a.jsonl", b'\n \n{"a": 1}\n\t\r\n{"a": 2}\n\n{"a": 3}')] == [3, 5, 7]
    assert [line for line, *_ in read("a.csv", b'\n\na,b\n1,2\n\n"3\n4",5\n6,7')] == [4, 6, 8]
    assert [line for line, *_ in read("a.txt", b"\n\na\n \nb")] == [3, 5]


def test_line_ends_inside_a_row_are_kept(read: Callable[..., list[Any]]) -> None:
    assert read("a.csv", b'a,b\r\n"1\r\n2","3\n4"\r\n')[0][1] == {"a": "1\r\n2", "b": "3\n4"}
    assert read("a.jsonl", '{"a": "\u2028\u2029\x85"}\n'.encode())[0][1] == {"a": "\u2028\u2029\x85"}


def test_a_csv_row_with_a_missing_or_extra_cell_is_dropped_alone(read: Callable[..., list[Any]]) -> None:
    found = read("a.csv", b"\xef\xbb\xbfa,b\n1\n1,2,3\n,\n")
    assert found == [(2, None, "wrong_type"), (3, None, "wrong_type"), (4, {"a": "", "b": ""}, "")]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.jsonl", b'{"a": "%s"}\n{"a": "ok"}'),
        ("a.json", b'[{"a": "%s"},\n{"a": "ok"}]'),
        ("a.csv", b"a,b\n%s,\nok,"),
    ],
)
@pytest.mark.parametrize(
    "odd", [b"caf\xe9", b"\xff", b"\xe2\x82", b"\xed\xa0\x80"], ids=["latin-1", "FF", "cut", "half"]
)
def test_bytes_that_are_not_utf8_damage_only_their_row(
    read: Callable[..., list[Any]], name: str, data: bytes, odd: bytes
) -> None:
    damaged, good = (values["a"] for _, values, _ in read(name, data % odd))
    assert good == "ok"
    with pytest.raises(UnicodeEncodeError):
        damaged.encode()


@pytest.mark.slow
def test_parquet_values_that_python_cannot_hold_drop_only_their_row(read: Callable[..., list[Any]]) -> None:
    offsets = pa.array([0, 2, 3], pa.int32()).buffers()[1]
    text = pa.Array.from_buffers(pa.string(), 2, [None, offsets, pa.py_buffer(b"\xff\xfea")])
    found = read("a.parquet", as_parquet(pa.table({"text": text})))
    assert found == [(1, None, "invalid_unicode"), (2, {"text": "a"}, "")]
    dates = pa.array([2**30, 0], pa.int32()).cast(pa.date32())
    found = read("b.parquet", as_parquet(pa.table({"text": ["a", "b"], "day": dates})))
    assert [reason for *_, reason in found] == ["wrong_type", ""]


@pytest.mark.slow
def test_a_parquet_column_name_that_is_not_utf8_is_reported(refusal: Callable[..., str]) -> None:
    data = as_parquet([{"name": "a"}]).replace(b"name", b"n\xffme")
    message = refusal("a.parquet", data)
    assert message == "a.parquet: damaged: invalid start byte in a column name; fetch it again"


@pytest.mark.slow
@pytest.mark.parametrize("packing", PACKINGS)
def test_rows_longer_than_many_chunks_are_complete(read: Callable[..., list[Any]], packing: str) -> None:
    rng = random.Random(1)
    texts = ["".join(rng.choices('aü😀"\\\n,]}', k=size)) for size in (3 << 20, 5, 1 << 20)]
    rows = [{"text": text} for text in texts]
    for name, data in {
        "a.json": json_array(rows),
        "b.json": json.dumps(rows, ensure_ascii=False).encode(),
        "a.jsonl": json_lines(rows),
        "a.csv": as_csv(rows),
        "a.parquet": as_parquet(rows),
    }.items():
        assert [values for _, values, _ in read(name + packing, PACKINGS[packing](data))] == rows, name
    joined = "\n".join(text.replace("\n", " ") for text in texts)
    assert len(read("a.txt" + packing, PACKINGS[packing](joined.encode()))) == 3


@settings(
    max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    rows=st.lists(
        st.dictionaries(st.text(max_size=5), st.text(max_size=12) | st.floats(allow_nan=False), max_size=3)
    ),
    chunk=st.integers(16, 64),
    ascii_only=st.booleans(),
    indent=st.none() | st.integers(0, 3),
)
def test_an_array_reads_the_same_wherever_its_chunks_end(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    rows: list[dict[str, Any]],
    chunk: int,
    ascii_only: bool,
    indent: int | None,
) -> None:
    monkeypatch.setattr(readers, "CHUNK", chunk)
    rows = [*json.loads(json.dumps(rows, ensure_ascii=True).encode("utf-8", "replace")), {}]
    path = tmp_path / "a.json"
    path.write_bytes(json.dumps(rows, ensure_ascii=ascii_only, indent=indent).encode("utf-8", "surrogatepass"))
    if b"\xed" not in path.read_bytes() or ascii_only:
        assert [row.values for row in read_rows(path)] == rows


def test_the_line_of_an_error_is_right_wherever_the_chunks_end(
    monkeypatch: pytest.MonkeyPatch, refusal: Callable[..., str]
) -> None:
    for chunk in range(16, 80):
        monkeypatch.setattr(readers, "CHUNK", chunk)
        good = b'[\n{"a":\n "\xc3\xbc"},\n\n' + b'{"b": 1.5e10},\n' * 5
        assert refusal("a.json", good + b'{"c" 1},\n{"d": 2}]').startswith("a.json:10: ")
        assert refusal("a.json", good + b'{"c": 1}\n{"d": 2}]').startswith("a.json:11: ")


@pytest.mark.parametrize("packing", [".gz", ".zst"])
@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.csv", "a.txt", "a.parquet"])
def test_a_truncated_or_wrongly_compressed_file_is_an_error_after_its_good_rows(
    refusal: Callable[..., str], packing: str, name: str
) -> None:
    rng = random.Random(2)
    rows = [{"text": str(rng.getrandbits(400))} for _ in range(20_000)]
    make = {"a.json": json_array, "a.jsonl": json_lines, "a.csv": as_csv, "a.parquet": as_parquet}
    data = make[name](rows) if name in make else "\n".join(row["text"] for row in rows).encode()
    packed = PACKINGS[packing](data)
    message = refusal(name + packing, packed[: len(packed) * 2 // 3])
    start, _, end = message.partition(" rows (Truncated compressed stream)")
    assert (start.rpartition(" ")[0], end) == (f"{name}{packing}: damaged after", "; fetch the file again"), message
    count = int(start.rpartition(" ")[2])
    assert count == 0 if name == "a.parquet" else 5000 < count < 15000  # what came before was read
    for wrong in (packed[:-1], packed + b"junk", data, packed[:3]):
        message = refusal(name + packing, wrong)
        assert message.startswith(f"{name}{packing}: damaged after ") and message.endswith("; fetch the file again")


def test_compressed_parts_in_sequence_are_one_file(read: Callable[..., list[Any]]) -> None:
    for packing in (".gz", ".zst"):
        data = PACKINGS[packing](json_lines(ROWS[:1])) + PACKINGS[packing](json_lines(ROWS[1:]))
        assert [values for _, values, _ in read("a.jsonl" + packing, data)] == ROWS
