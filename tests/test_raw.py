"""Raw files: every kind gives its rows, packed or not, each with its line; a broken file is named with the place."""

import codecs
import csv
import gzip
import io
import json
import os
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

from stages.common import raw, readers

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
        return [tuple(row) for row in raw.rows(path, sample_by)]

    return read


@pytest.fixture
def refusal(tmp_path: Path) -> Callable[..., str]:
    """Write a file that cannot be read and give the message, without the folder."""

    def refusal(name: str, data: bytes) -> str:
        path = tmp_path / name
        path.write_bytes(data)
        with pytest.raises(click.ClickException) as caught:
            list(raw.rows(path))
        assert "\n" not in caught.value.message
        return caught.value.message.removeprefix(f"{tmp_path}/")

    return refusal


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


def test_blank_lines_are_no_rows_but_count_as_lines(read: Callable[..., list[Any]]) -> None:
    assert [line for line, *_ in read("a.jsonl", b'\n \n{"a": 1}\n\t\r\n{"a": 2}\n\n{"a": 3}')] == [3, 5, 7]
    assert [line for line, *_ in read("a.csv", b'\n\na,b\n1,2\n\n"3\n4",5\n6,7')] == [4, 6, 8]
    assert [line for line, *_ in read("a.txt", b"\n\na\n \nb")] == [3, 5]


def test_line_ends_inside_a_row_are_kept(read: Callable[..., list[Any]]) -> None:
    assert read("a.csv", b'a,b\r\n"1\r\n2","3\n4"\r\n')[0][1] == {"a": "1\r\n2", "b": "3\n4"}
    assert read("a.jsonl", '{"a": "\u2028\u2029\x85"}\n'.encode())[0][1] == {"a": "\u2028\u2029\x85"}


def test_a_csv_row_of_another_width_is_a_flaw_of_that_row(read: Callable[..., list[Any]]) -> None:
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
def test_bytes_that_are_no_utf8_spoil_their_row_only(
    read: Callable[..., list[Any]], name: str, data: bytes, odd: bytes
) -> None:
    spoilt, good = (values["a"] for _, values, _ in read(name, data % odd))
    assert good == "ok"
    with pytest.raises(UnicodeEncodeError):
        spoilt.encode()


def test_parquet_values_that_python_cannot_hold_spoil_their_row_only(read: Callable[..., list[Any]]) -> None:
    offsets = pa.array([0, 2, 3], pa.int32()).buffers()[1]
    text = pa.Array.from_buffers(pa.string(), 2, [None, offsets, pa.py_buffer(b"\xff\xfea")])
    found = read("a.parquet", as_parquet(pa.table({"text": text})))
    assert found == [(1, None, "invalid_unicode"), (2, {"text": "a"}, "")]
    dates = pa.array([2**30, 0], pa.int32()).cast(pa.date32())
    found = read("b.parquet", as_parquet(pa.table({"text": ["a", "b"], "day": dates})))
    assert [flaw for *_, flaw in found] == ["wrong_type", ""]


def test_a_parquet_column_whose_name_is_no_text_is_named(refusal: Callable[..., str]) -> None:
    data = as_parquet([{"name": "a"}]).replace(b"name", b"n\xffme")
    message = refusal("a.parquet", data)
    assert message.startswith("a.parquet: broken after 0 rows ('utf-8' codec can't decode byte 0xff")


@pytest.mark.parametrize("packing", PACKINGS)
def test_rows_longer_than_many_chunks_are_whole(read: Callable[..., list[Any]], packing: str) -> None:
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
        assert [row.values for row in raw.rows(path)] == rows


def test_the_line_of_an_error_is_right_wherever_the_chunks_end(
    monkeypatch: pytest.MonkeyPatch, refusal: Callable[..., str]
) -> None:
    for chunk in range(16, 80):
        monkeypatch.setattr(readers, "CHUNK", chunk)
        good = b'[\n{"a":\n "\xc3\xbc"},\n\n' + b'{"b": 1.5e10},\n' * 5
        assert (
            refusal("a.json", good + b'{"c" 1},\n{"d": 2}]')
            == "a.json:10: not JSON (Expecting ':' delimiter); mend the line"
        )
        assert (
            refusal("a.json", good + b'{"c": 1}\n{"d": 2}]')
            == "a.json:11: not JSON (Expecting ',' delimiter); mend the line"
        )


DEEP = "a number too long, or brackets too deep; mend the"


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.json", b"", ": no rows; fill it or delete it"),
        ("a.json", b" \n\t\n", ": no rows; fill it or delete it"),
        ("a.json", b"[]", ": no rows; fill it or delete it"),
        ("a.json", b"[ \n ]\n", ": no rows; fill it or delete it"),
        ("a.json", b'[{"a": 1}\n', ":2: not JSON (Expecting ',' delimiter); mend the line"),
        ("a.json", b'[{"a": 1},', ":1: not JSON (Expecting value); mend the line"),
        ("a.json", b'[{"a": 1},\n]', ":2: not JSON (Expecting value); mend the line"),
        ("a.json", b'[\n{"a": 1},\n{"a": "x', ":3: not JSON (Unterminated string starting at); mend the line"),
        ("a.json", b'[\n{"a": 1}\n{"b": 2}]', ":3: not JSON (Expecting ',' delimiter); mend the line"),
        ("a.json", b'[{"a": "\n"}]', ":1: not JSON (Invalid control character at); mend the line"),
        ("a.json", b'[{"a": "\\x"}]', ":1: not JSON (Invalid \\escape); mend the line"),
        ("a.json", b"[1]\n[2]", ": text after the array's closing bracket; delete it"),
        ("a.json", b"[1]]", ": text after the array's closing bracket; delete it"),
        ("a.json", b"[" * 100_000, f": row 1: {DEEP} row"),
        ("a.json", b"[1,\n" + b"1" * 5000 + b" ]", f": row 2: {DEEP} row"),
        ("a.json", b'{"a":\n1}', ":1: not JSON (Expecting value); mend the line"),
        ("a.json", '[{"a": 1}]'.encode("utf-16"), ": UTF-16; save the file as UTF-8"),
        ("a.jsonl", '{"a": 1}'.encode("utf-16-be"), ":1: not JSON (Expecting value); mend the line"),
        ("a.csv", codecs.BOM_UTF16_BE + "a,b\n1,2".encode("utf-16-be"), ": UTF-16; save the file as UTF-8"),
        ("a.txt", "text".encode("utf-16"), ": UTF-16; save the file as UTF-8"),
        ("a.jsonl", b"{}\n\n" + b'{"a": b}\n{}', ":3: not JSON (Expecting value); mend the line"),
        ("a.jsonl", b'{"a": \xe9}', ":1: not JSON (Expecting value); mend the line"),
        ("a.jsonl", b'{"a": 1}\r{"a": 2}', ":1: not JSON (Extra data); mend the line"),
        ("a.jsonl", b'{"a": 1}\n{"a": "x', ":2: not JSON (Unterminated string starting at); mend the line"),
        ("a.jsonl", b"{}\n" + b"1" * 5000, f":2: {DEEP} line"),
        ("a.jsonl", b'{"a":' * 50_000, f":1: {DEEP} line"),
        ("a.csv", b"", ": no rows; fill it or delete it"),
        ("a.csv", b"a,b\n\n", ": no rows; fill it or delete it"),
        ("a.csv", b"\na,b,a\n1,2,3", ":2: a column name stands there twice; rename one"),
        ("a.csv", b'a,b\n1,2\n"3\n,4\n', ":3: not CSV (unexpected end of data); mend the line"),
        ("a.csv", b'a,b\n1,2\n"3"4,5\n6,7', ":3: not CSV (',' expected after '\"'); mend the line"),
        ("a.txt", b" \n\n", ": no rows; fill it or delete it"),
        ("a.parquet", as_parquet(pa.table({"a": pa.array([], pa.string())})), ": no rows; fill it or delete it"),
        ("a.parquet", b"", ": broken after 0 rows (Parquet file size is 0 bytes); fetch the file anew"),
        ("a.jsonl.gz", b"", ": no rows; fill it or delete it"),
        ("a.jsonl.zst", b"", ": no rows; fill it or delete it"),
    ],
)
def test_a_broken_file_is_named_with_the_place(
    refusal: Callable[..., str], name: str, data: bytes, message: str
) -> None:
    assert refusal(name, data) == name + message


@pytest.mark.parametrize("packing", [".gz", ".zst"])
@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.csv", "a.txt", "a.parquet"])
def test_a_cut_or_wrongly_packed_file_is_refused_after_the_rows_before_it(
    refusal: Callable[..., str], packing: str, name: str
) -> None:
    rng = random.Random(2)
    rows = [{"text": str(rng.getrandbits(400))} for _ in range(20_000)]
    make = {"a.json": json_array, "a.jsonl": json_lines, "a.csv": as_csv, "a.parquet": as_parquet}
    data = make[name](rows) if name in make else "\n".join(row["text"] for row in rows).encode()
    packed = PACKINGS[packing](data)
    message = refusal(name + packing, packed[: len(packed) * 2 // 3])
    start, _, end = message.partition(" rows (Truncated compressed stream)")
    assert (start.rpartition(" ")[0], end) == (f"{name}{packing}: broken after", "; fetch the file anew"), message
    count = int(start.rpartition(" ")[2])
    assert count == 0 if name == "a.parquet" else 5000 < count < 15000  # what came before was read
    for wrong in (packed[:-1], packed + b"junk", data, packed[:3]):
        message = refusal(name + packing, wrong)
        assert message.startswith(f"{name}{packing}: broken after ") and message.endswith("; fetch the file anew")


def test_packed_parts_one_after_the_other_are_one_file(read: Callable[..., list[Any]]) -> None:
    for packing in (".gz", ".zst"):
        data = PACKINGS[packing](json_lines(ROWS[:1])) + PACKINGS[packing](json_lines(ROWS[1:]))
        assert [values for _, values, _ in read("a.jsonl" + packing, data)] == ROWS


def test_data_files_are_listed_in_order_without_what_is_none(tmp_path: Path) -> None:
    for name in ("b.csv", "a.jsonl", "C.TXT.GZ", ".hidden.csv", "a.jsonl.dvc", "README.md", ".gitignore"):
        (tmp_path / name).touch()
    (tmp_path / "folder.jsonl").mkdir()
    assert [path.name for path in raw.paths(tmp_path)] == ["C.TXT.GZ", "a.jsonl", "b.csv"]


@pytest.mark.parametrize("name", ["rows.xml", "README", "rows.jsonl.bz2", "rows.json.gz.zst", "jsonl", "rows.gz"])
def test_files_of_another_kind_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    with pytest.raises(click.ClickException) as caught:
        raw.paths(tmp_path)
    known = ".json, .jsonl, .parquet, .csv, .txt, each also .gz or .zst"
    assert caught.value.message == f"{tmp_path}/{name}: not one of {known}; convert it or move it away"


@pytest.mark.parametrize("name", [os.fsdecode(b"\xff.jsonl"), "a\nb.jsonl"])
def test_a_name_that_cannot_be_printed_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    with pytest.raises(click.ClickException) as caught:
        raw.paths(tmp_path)
    assert caught.value.message == f"{tmp_path}: {name!a}: a name that no table can hold; rename the file"


def test_a_folder_without_data_is_refused_unless_none_is_needed(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(click.ClickException) as caught:
            raw.paths(folder)
        assert caught.value.message == f"{folder}: no files; put .json, .jsonl, .parquet, .csv, .txt files in it"
        assert raw.paths(folder, needed=False) == []


def test_a_file_that_is_gone_is_named(tmp_path: Path) -> None:
    with pytest.raises(click.ClickException) as caught:
        list(raw.rows(tmp_path / "a.jsonl"))
    assert caught.value.message == f"{tmp_path}/a.jsonl: no such file"
