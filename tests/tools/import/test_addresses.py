"""Rows from an address: https:// alone, recorded without secrets, complete or not at all."""

import gzip
from collections.abc import Callable
from pathlib import Path

import pytest
from import_project import KINDS, ROWS, Web, command, lines, record, sha256, tree


@pytest.mark.slow
def test_an_address_is_recorded_without_its_secrets(
    project: Path, web: Web, succeed: Callable[..., str], fail: Callable[..., str]
) -> None:
    web.answers["/a%20folder/rows.jsonl?key=secret"] = (200, {}, ROWS)
    address = web.address.replace("//", "//user:password@") + "/a%20folder/rows.jsonl?key=secret#part"
    shown = f"{web.address}/a%20folder/rows.jsonl"
    output = succeed(command, address, "--sha256", sha256(ROWS).upper())
    assert output.splitlines()[0] == f"data/raw/rows.jsonl: 100 rows of {shown}, licence unknown"
    assert record(project, "rows.jsonl")["desc"] == f"100 rows of {shown}"
    assert record(project, "rows.jsonl")["meta"] == {
        "source": shown,
        "revision": sha256(ROWS),
        "licence": "unknown",
        "rows": 100,
    }
    assert succeed(command, address) == "data/raw/rows.jsonl: already imported\n"
    web.answers.clear()
    assert fail(command, address) == f"{shown}: 404 Not Found; check the address"


@pytest.mark.slow
def test_compressed_bytes_stay_compressed(project: Path, web: Web, succeed: Callable[..., str]) -> None:
    packed = gzip.compress(ROWS, mtime=0)
    web.answers["/rows.jsonl.gz"] = (200, {"Content-Encoding": "gzip"}, packed)
    succeed(command, f"{web.address}/rows.jsonl.gz")
    assert (project / "data/raw/rows.jsonl.gz").read_bytes() == packed
    succeed(command, f"{web.address}/rows.jsonl.gz", "--limit", "3")
    assert len(lines(project, "rows-3.jsonl")) == 3


@pytest.mark.slow
def test_an_address_without_a_file_name_needs_one(
    project: Path, web: Web, succeed: Callable[..., str], fail: Callable[..., str]
) -> None:
    web.answers["/?id=3"] = web.answers["/download"] = (200, {}, ROWS)
    assert fail(command, f"{web.address}/?id=3") == (
        f"the address: the name does not end like that of a data file ({KINDS}); choose one with --name"
    )
    assert fail(command, f"{web.address}/download").startswith("download: the name does not end like ")
    succeed(command, f"{web.address}/?id=3", "--name", "rows.jsonl")
    assert (project / "data/raw/rows.jsonl").read_bytes() == ROWS


def test_a_broken_connection_leaves_nothing(raw_rows: Path, web: Web, fail: Callable[..., str]) -> None:
    web.answers["/rows.jsonl"] = (200, {"Content-Length": str(len(ROWS) + 1)}, ROWS)
    before = tree(raw_rows)
    address = f"{web.address}/rows.jsonl"
    assert fail(command, address) == (
        f"{address}: peer closed connection without sending complete message body (received {len(ROWS)} bytes, "
        f"expected {len(ROWS) + 1}); check the address and the network"
    )
    address = "http://127.0.0.1:9/rows.jsonl"
    assert fail(command, address) == f"{address}: [Errno 111] Connection refused; check the address and the network"
    assert tree(raw_rows) == before


def test_a_redirect_away_from_https_is_refused(
    raw_rows: Path, web: Web, secure: Web, fail: Callable[..., str]
) -> None:
    for start in (web, secure):
        for to in (
            f"{web.address}/rows.jsonl?key=secret",
            "http://example.com/rows.jsonl",
            "ftp://127.0.0.1/rows.jsonl",
        ):
            web.answers["/old.jsonl"] = (302, {"Location": to}, b"")
            assert fail(command, f"{start.address}/old.jsonl") == (
                f"{start.address}/old.jsonl: redirects to {to.partition('?')[0]}, "
                "which is not https://; use another address"
            )
    assert "rows.jsonl" not in tree(raw_rows)


@pytest.mark.slow
def test_https_is_followed_where_its_certificate_is_good(
    project: Path,
    web: Web,
    secure: Web,
    succeed: Callable[..., str],
    fail: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    web.answers["/old.jsonl"] = (302, {"Location": f"{secure.address}/rows.jsonl"}, b"")
    succeed(command, f"{secure.address}/old.jsonl")
    assert record(project, "old.jsonl")["meta"]["source"] == f"{secure.address}/old.jsonl"
    assert (project / "data/raw/old.jsonl").read_bytes() == ROWS
    monkeypatch.delenv("SSL_CERT_FILE")
    for address in (f"{secure.address}/rows.jsonl", f"{web.address}/old.jsonl"):
        message = fail(command, address, "--name", "new.jsonl")
        assert message.startswith(f"{address}: [SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: self")
        assert message.endswith("; check the address and the network")
    assert "new.jsonl" not in tree(project)
