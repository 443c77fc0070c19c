"""The messages of `make import`, each in full once, and nothing is left behind."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hub import COMMIT
from import_project import KINDS, OWN, ROWS, command, sha256, tree

NOT_HTTPS = "not https://, so the network could change the rows; use an https:// address"
NOT_HUB = "--revision and --file are for datasets of the hub; leave them out, or name one as owner/name"
HINT = "choose another --name, or replace it with --force"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([""], "SOURCE: missing; set it to a file, an https:// address, or owner/name on the hub"),
        (["no.csv"], "no.csv: no such file, and not owner/name on the hub or an https:// address; correct SOURCE"),
        (["data/raw"], "data/raw: is a folder; name a file in it"),
        (
            ["dvc.yaml"],
            f"dvc.yaml: the name does not end like that of a data file ({KINDS}); choose one with --name",
        ),
        (
            ["dvc.yaml", "--limit", "3"],
            f"dvc.yaml: the name does not end like that of a data file ({KINDS}); import it without --limit",
        ),
        (["no.csv", "--revision", COMMIT], f"no.csv: {NOT_HUB}"),
        (["no.csv", "--file", "a.csv"], f"no.csv: {NOT_HUB}"),
        *(
            (["dvc.yaml", "--name", name], f"--name: '{name}': must be a file name that ends in one of {KINDS}")
            for name in ("raw/rows.txt", "../rows.txt", ".rows.txt", "rows.yaml")
        ),
        (
            ["data/raw/own.jsonl", "--name", "rows.csv", "--limit", "1"],
            "--name: 'rows.csv': must be a file name that ends in .jsonl, as samples do",
        ),
        *(
            (["dvc.yaml", "--limit", limit], f"--limit: '{limit}' is not a number of rows, such as 32 or 2k")
            for limit in ("0", "-1", "1.5", "k", "2K", "many", "2k ", "\u0662")
        ),
        (
            ["data/raw/own.jsonl", "--limit", "2"],
            "own.jsonl: 1 rows to draw from, fewer than --limit 2; leave it out",
        ),
        (
            ["data/raw/own.jsonl", "--name", "rows.jsonl", "--sha256", "0" * 64],
            f"data/raw/own.jsonl: its sha256 is {sha256(OWN)}, not {'0' * 64}; check the source, or --sha256",
        ),
        (["http://example.com/a.csv?key=x"], f"http://example.com/a.csv: {NOT_HTTPS}"),
        (["http://127.0.0.1.example.com/a.csv"], f"http://127.0.0.1.example.com/a.csv: {NOT_HTTPS}"),
        (["http://localhost.example.com/a.csv"], f"http://localhost.example.com/a.csv: {NOT_HTTPS}"),
        (["ftp://127.0.0.1/a.csv"], f"ftp://127.0.0.1/a.csv: {NOT_HTTPS}"),
        (["file:///etc/a.csv"], f"file:/etc/a.csv: {NOT_HTTPS}"),
        (["https:///a.csv"], "https:/a.csv: it has no host; correct the address"),
        (["https://host:port/a.csv"], "https://host:port/a.csv: Invalid port: 'port'; correct the address"),
        *(
            (
                ["lockstep/rows", *(["--revision", revision] if revision else [])],
                f"lockstep/rows: --revision: {revision!r} is not a full commit hash (40 hex digits), and a branch "
                "changes; get the hash with `git ls-remote https://huggingface.co/datasets/lockstep/rows HEAD`",
            )
            for revision in (None, "main", "v1.0", COMMIT[:7], COMMIT.upper(), COMMIT + "0", COMMIT + "\n")
        ),
    ],
)
def test_what_is_not_imported_is_named_and_leaves_nothing(
    raw_rows: Path, fail: Callable[..., str], arguments: list[str], message: str
) -> None:
    before = tree(raw_rows)
    assert fail(command, *arguments) == message
    assert tree(raw_rows) == before
    assert not list((raw_rows / "data" / "raw").glob(".*.building"))


@pytest.mark.parametrize(
    ("earlier", "arguments", "message"),
    [
        (None, [], f"data/raw/rows.jsonl: exists, with no record of its source; {HINT}"),
        ({"licence": "unknown"}, ["--licence", "mit"], f"data/raw/rows.jsonl: exists, with licence unknown; {HINT}"),
        ({"source": "other.jsonl"}, [], f"data/raw/rows.jsonl: exists, with source other.jsonl; {HINT}"),
        (
            {},
            ["--name", "rows.jsonl", "--limit", "5"],
            f"data/raw/rows.jsonl: exists, with limit not set; {HINT}",
        ),
        (
            {"revision": "0" * 64},
            [],
            f"data/raw/rows.jsonl: its source has changed since the import; {HINT}",
        ),
        (
            {},
            [],
            "data/raw/rows.jsonl: it has changed since the import; --force imports it again",
        ),
    ],
)
def test_a_file_that_exists_is_kept(
    raw_rows: Path, source: Path, fail: Callable[..., str], earlier: dict[str, str] | None, arguments: list[str],
    message: str,
) -> None:  # fmt: skip
    (raw_rows / "data/raw/rows.jsonl").write_bytes(OWN)
    if earlier is not None:
        facts = {"source": "rows.jsonl", "revision": sha256(ROWS)} | earlier
        document = {"meta": facts, "outs": [{"path": "raw/rows.jsonl", "md5": "0" * 32}]}
        (raw_rows / "data/rows.jsonl.dvc").write_text(json.dumps(document), encoding="utf-8")  # JSON is YAML, too
    before = tree(raw_rows)
    assert fail(command, source, *arguments) == message
    assert tree(raw_rows) == before
