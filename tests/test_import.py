"""Import: rows come whole or not at all, with a record of where they came from, and DVC brings them back."""

import contextlib
import datetime
import gzip
import hashlib
import importlib
import json
import os
import shutil
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
import zc.lockfile
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hub import COMMIT, Hub
from ruamel.yaml import YAML

from stages.common import raw
from tools.common import records, samples

ROOT = Path(__file__).resolve().parents[1]
command = importlib.import_module("tools.import").main  # `import` is no name that a statement could use
ROWS = b"".join(b'{"instruction": "Say %d.", "output": "%d"}\n' % (number, number) for number in range(100))
OWN = b'{"text": "mine"}\n'
KINDS = ".json, .jsonl, .parquet, .csv, .txt, each also .gz or .zst"
PIPELINE = """\
stages:
  preprocess:
    cmd: mkdir -p data/prepared && cat data/raw/* > data/prepared/train.jsonl
    deps: [data/raw]
    outs: [data/prepared/train.jsonl]
"""
WHO = {f"GIT_{role}_{part}": "test" for role in ("AUTHOR", "COMMITTER") for part in ("NAME", "EMAIL")}
PLAIN = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy") and key != "DVC_ROOT"}
ENVIRONMENT = PLAIN | WHO | {"PYTHONPATH": str(ROOT)}


def run(folder: Path, line: str) -> str:
    """Run a command that must succeed."""
    done = subprocess.run(line.split(), cwd=folder, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A git and DVC repository with this one's settings, one raw row in git, and a pipeline that has run."""
    folder = tmp_path_factory.mktemp("template")
    for name in (".dvc/config", ".dvc/.gitignore", ".dvcignore", ".gitignore"):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    (folder / "dvc.yaml").write_text(PIPELINE, encoding="utf-8")
    (folder / "data" / "raw").mkdir(parents=True)
    (folder / "data" / "raw" / "own.jsonl").write_bytes(OWN)
    for line in ("git init -q", "dvc repro -q", "git add -A", "git commit -qm start"):
        run(folder, line)
    return folder


@pytest.fixture
def repository(template: Path, tmp_path: Path) -> Path:
    """That repository, copied to tmp_path."""
    return shutil.copytree(template, tmp_path, dirs_exist_ok=True)


@pytest.fixture
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of 100 rows that lies elsewhere."""
    path = tmp_path_factory.mktemp("elsewhere") / "rows.jsonl"
    path.write_bytes(ROWS)
    return path


def tree(folder: Path) -> dict[str, bytes]:
    """Everything in data/ that an import could have touched."""
    found = [path for path in (folder / "data").rglob("*") if path.is_file() and "prepared" not in path.parts]
    return {path.relative_to(folder / "data").as_posix(): path.read_bytes() for path in sorted(found)}


def record(folder: Path, name: str) -> dict[str, Any]:
    return YAML(typ="safe", pure=True).load(folder / "data" / f"{name}.dvc")


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_a_file_is_copied_tracked_and_recorded(repository: Path, source: Path, succeed: Callable[..., str]) -> None:
    assert succeed(command, source, "--licence", "CC BY 4.0") == (
        "data/raw/rows.jsonl: 100 rows of rows.jsonl, licence CC BY 4.0\n"
        "next: commit data/rows.jsonl.dvc, share the rows with `dvc push`, then `make repro`\n"
    )
    out = {"path": "raw/rows.jsonl", "size": len(ROWS), "hash": "md5", "md5": hashlib.md5(ROWS).hexdigest()}
    assert record(repository, "rows.jsonl") == {
        "desc": "100 rows of rows.jsonl",
        "meta": {"source": "rows.jsonl", "revision": sha256(ROWS), "licence": "CC BY 4.0", "rows": 100},
        "outs": [out],
    }
    assert sorted(tree(repository)) == ["raw/.gitignore", "raw/own.jsonl", "raw/rows.jsonl", "rows.jsonl.dvc"]
    assert (repository / "data/raw/rows.jsonl").read_bytes() == ROWS
    assert run(repository, "git status --porcelain") == "A  data/raw/.gitignore\nA  data/rows.jsonl.dvc\n"
    assert [path.name for path in raw.paths(repository / "data/raw")] == ["own.jsonl", "rows.jsonl"]


def test_without_a_licence_it_says_what_to_do_and_the_second_time_it_knows(
    repository: Path, source: Path, succeed: Callable[..., str], fail: Callable[..., str]
) -> None:
    assert succeed(command, source).splitlines()[:2] == [
        "data/raw/rows.jsonl: 100 rows of rows.jsonl, licence unknown",
        "look the licence up, and record it with --licence and --force",
    ]
    message = "data/raw/rows.jsonl: exists, with licence unknown; choose another --name, or replace it with --force"
    assert fail(command, source, "--licence", "mit") == message
    succeed(command, source, "--licence", "mit", "--force")
    before = tree(repository)
    assert succeed(command, source) == "data/raw/rows.jsonl: already imported\n"
    assert tree(repository) == before
    succeed(command, source, "--force")
    assert tree(repository) == before


def test_a_changed_source_or_file_is_no_repeated_import(
    repository: Path, source: Path, succeed: Callable[..., str], fail: Callable[..., str]
) -> None:
    succeed(command, source)
    before = tree(repository)
    source.write_bytes(ROWS + ROWS)
    assert fail(command, source) == (
        "data/raw/rows.jsonl: its source has changed since; choose another --name, or replace it with --force"
    )
    assert tree(repository) == before
    source.write_bytes(ROWS)
    target = repository / "data/raw/rows.jsonl"
    target.unlink()
    target.write_bytes(b"{}\n")
    assert fail(command, source) == "data/raw/rows.jsonl: was changed after its import; --force imports it anew"
    succeed(command, source, "--force")
    assert tree(repository) == before
    target.unlink()  # as in a clone before `dvc pull`
    assert succeed(command, source).startswith("data/raw/rows.jsonl: 100 rows of rows.jsonl")
    assert tree(repository) == before


def test_a_file_from_elsewhere_is_never_overwritten_unasked(
    repository: Path, source: Path, succeed: Callable[..., str], fail: Callable[..., str]
) -> None:
    hint = "choose another --name, or replace it with --force"
    (repository / "data/raw/rows.jsonl").write_bytes(ROWS)
    before = tree(repository)
    assert fail(command, source) == f"data/raw/rows.jsonl: exists, with no record of its source; {hint}"
    assert tree(repository) == before
    succeed(command, source, "--force")
    other = source.with_name("other.jsonl")
    other.write_bytes(ROWS + ROWS)
    message = f"data/raw/rows.jsonl: exists, with source rows.jsonl; {hint}"
    assert fail(command, other, "--name", "rows.jsonl") == message
    assert fail(command, source, "--name", "rows.jsonl", "--limit", "5") == (
        f"data/raw/rows.jsonl: exists, with limit not set; {hint}"
    )
    succeed(command, other, "--name", "rows.jsonl", "--force")
    assert record(repository, "rows.jsonl")["meta"] == {
        "source": "other.jsonl",
        "revision": sha256(ROWS + ROWS),
        "licence": "unknown",
        "rows": 200,
    }
    assert (repository / "data/raw/rows.jsonl").read_bytes() == ROWS + ROWS


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([""], "SOURCE: empty; give a file, an https:// address, or owner/name on the hub"),
        (["no.csv"], "no.csv: no such file, and neither owner/name on the hub nor an https:// address"),
        (["data/raw"], "data/raw: a folder; name a file in it"),
        (["dvc.yaml"], f"dvc.yaml: not named like a data file ({KINDS}); give a --name that is"),
        (["dvc.yaml", "--limit", "3"], f"dvc.yaml: not named like a data file ({KINDS}); import it without --limit"),
        (
            ["no.csv", "--revision", COMMIT],
            "no.csv: --revision and --file need a dataset of the hub, such as owner/name",
        ),
        (
            ["no.csv", "--file", "a.csv"],
            "no.csv: --revision and --file need a dataset of the hub, such as owner/name",
        ),
        (
            ["dvc.yaml", "--name", "raw/rows.txt"],
            f"--name: 'raw/rows.txt' must be a file name that ends in one of {KINDS}",
        ),
        (
            ["dvc.yaml", "--name", "../rows.txt"],
            f"--name: '../rows.txt' must be a file name that ends in one of {KINDS}",
        ),
        (["dvc.yaml", "--name", ".rows.txt"], f"--name: '.rows.txt' must be a file name that ends in one of {KINDS}"),
        (["dvc.yaml", "--name", "rows.yaml"], f"--name: 'rows.yaml' must be a file name that ends in one of {KINDS}"),
        (
            ["data/raw/own.jsonl", "--name", "rows.csv", "--limit", "1"],
            "--name: 'rows.csv' must be a file name that ends in .jsonl, as a sample does",
        ),
        *(
            (["dvc.yaml", "--limit", limit], f"--limit: '{limit}' is no number of rows, such as 32 or 2k")
            for limit in ("0", "-1", "1.5", "k", "2K", "many", "2k ", "\u0662")
        ),
        (
            ["data/raw/own.jsonl", "--limit", "2"],
            "own.jsonl: 1 rows to draw from, fewer than --limit 2; leave it out",
        ),
        (
            ["data/raw/own.jsonl", "--name", "rows.jsonl", "--sha256", "0" * 64],
            f"data/raw/own.jsonl: its sha256 is {sha256(OWN)}, not {'0' * 64}; nothing was imported",
        ),
    ],
)
def test_what_cannot_be_imported_is_named_and_leaves_nothing(
    repository: Path, fail: Callable[..., str], arguments: list[str], message: str
) -> None:
    before = tree(repository)
    assert fail(command, *arguments) == message
    assert tree(repository) == before
    assert not list((repository / "data" / "raw").glob(".*.building"))


@pytest.mark.parametrize("existing", [False, True])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "rows.jsonl: no rows; fill it or delete it"),
        (
            ROWS + b"{not json}\n",
            "rows.jsonl:101: not JSON (Expecting property name enclosed in double quotes); mend the line",
        ),
        (ROWS.decode().encode("utf-16"), "rows.jsonl: UTF-16; save the file as UTF-8"),
    ],
)
def test_a_file_that_cannot_be_read_lands_nowhere(
    repository: Path,
    source: Path,
    succeed: Callable[..., str],
    fail: Callable[..., str],
    existing: bool,
    content: bytes,
    message: str,
) -> None:
    if existing:
        succeed(command, source)
    before = tree(repository)
    source.write_bytes(content)
    assert fail(command, source, *["--force"] * existing) == message
    assert tree(repository) == before
    assert not list((repository / "data" / "raw").glob(".*.building"))


def test_rows_that_cannot_be_read_are_told_of(repository: Path, source: Path, succeed: Callable[..., str]) -> None:
    source = source.with_suffix(".csv")
    source.write_bytes(b"question,answer\n1,2\n3\n4,5\n")
    assert succeed(command, source).splitlines()[:2] == [
        "data/raw/rows.csv: 3 rows of rows.csv, licence unknown",
        "1 rows cannot be read; preprocess drops and counts them",
    ]
    assert succeed(command, source, "--limit", "2").splitlines()[:2] == [
        "data/raw/rows-2.jsonl: 2 rows of rows.csv, licence unknown",
        "1 rows cannot be read; left out",
    ]
    assert (repository / "data/raw/rows-2.jsonl").read_bytes() == (
        b'{"question": "1", "answer": "2"}\n{"question": "4", "answer": "5"}\n'
    )


def test_what_dvc_refuses_leaves_all_as_it_was(repository: Path, source: Path, fail: Callable[..., str]) -> None:
    before = tree(repository)
    message = fail(command, source, "--name", "own.jsonl", "--force")
    assert message.startswith("dvc add: output 'data/raw/own.jsonl' is already tracked by SCM (e.g. Git).\n")
    assert tree(repository) == before
    shutil.rmtree(repository / ".dvc")
    message = fail(command, source)
    assert message.startswith("dvc add: you are not inside of a DVC repository")
    assert tree(repository) == before


def interrupt(folder: Path, arguments: list[str], ready: Callable[[], bool]) -> tuple[int, str]:
    """Press Ctrl-C in an import once `ready`, and give its exit code and what it said."""
    line = [sys.executable, "-m", "tools.import", *arguments]
    process = subprocess.Popen(
        line,
        cwd=folder,
        env=ENVIRONMENT,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
        # In a shell's background SIGINT is ignored, and a child would inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    for _ in range(600):
        if ready():
            break
        time.sleep(0.05)
    else:
        process.kill()
        pytest.fail(f"not ready in half a minute: {process.communicate()[1]}")
    os.killpg(process.pid, signal.SIGINT)
    return process.wait(60), process.communicate()[1]


def test_ctrl_c_during_the_download_leaves_nothing(repository: Path, web: "Web") -> None:
    before = tree(repository)
    web.answers["/rows.jsonl"] = (200, {"Content-Length": str(2 * len(ROWS))}, ROWS)
    web.broken.clear()
    building = repository / "data/raw/.rows.jsonl.building/rows.jsonl"
    assert interrupt(repository, [f"{web.address}/rows.jsonl"], building.exists) == (1, "\nAborted!\n")
    web.broken.set()
    assert tree(repository) == before
    assert not building.parent.exists()


@pytest.mark.parametrize("existing", [False, True])
def test_ctrl_c_while_dvc_works_brings_back_what_was_there(
    repository: Path, source: Path, succeed: Callable[..., str], existing: bool
) -> None:
    if existing:
        succeed(command, source)
        source.write_bytes(ROWS + ROWS)
    before = tree(repository)
    target = repository / "data/raw/rows.jsonl"
    lock = zc.lockfile.LockFile(str(repository / ".dvc/tmp/lock"))  # for which `dvc add` waits
    try:
        assert interrupt(
            repository,
            [str(source), "--force"],
            lambda: target.exists() and target.read_bytes() == source.read_bytes(),
        ) == (1, "\nAborted!\n")
    finally:
        lock.close()
    assert tree(repository) == before


def test_what_a_killed_import_left_is_no_data_and_vanishes(
    repository: Path, source: Path, succeed: Callable[..., str], fail: Callable[..., str]
) -> None:
    left = repository / "data/raw/.rows.jsonl.building"
    left.mkdir()
    (left / "rows.jsonl").write_bytes(b"half")
    assert "up to date" in run(repository, "dvc status")
    assert run(repository, "git status --porcelain") == ""
    succeed(command, source)
    assert not left.exists()
    file = repository / "data/rows.jsonl.dvc"
    whole = file.read_bytes()
    file.write_bytes(b"".join(line for line in whole.splitlines(True) if not line.startswith(b"  md5: ")))
    assert fail(command, source).startswith("data/raw/rows.jsonl: exists, with no record of its source; ")
    succeed(command, source, "--force")
    assert file.read_bytes() == whole


def lines(folder: Path, name: str) -> list[str]:
    return (folder / "data/raw" / name).read_text(encoding="utf-8").splitlines()


def test_a_sample_is_rows_of_the_source_in_its_order_the_same_for_a_seed(
    repository: Path, source: Path, succeed: Callable[..., str]
) -> None:
    assert succeed(command, source, "--limit", "32", "--licence", "mit").splitlines()[0] == (
        "data/raw/rows-32.jsonl: 32 rows of rows.jsonl, licence mit"
    )
    assert record(repository, "rows-32.jsonl")["meta"] == {
        "source": "rows.jsonl",
        "revision": sha256(ROWS),
        "licence": "mit",
        "rows": 32,
        "limit": 32,
        "seed": 7,
    }
    assert record(repository, "rows-32.jsonl")["desc"] == "32 rows of rows.jsonl"
    first, all_rows = lines(repository, "rows-32.jsonl"), ROWS.decode().splitlines()
    assert len(set(first)) == 32
    assert [row for row in all_rows if row in first] == first
    succeed(command, source, "--limit", "32", "--name", "again.jsonl")
    assert lines(repository, "again.jsonl") == first
    succeed(command, source, "--limit", "32", "--seed", "8", "--name", "other.jsonl")
    assert lines(repository, "other.jsonl") != first
    succeed(command, source, "--limit", "100")
    assert (repository / "data/raw/rows-100.jsonl").read_bytes() == ROWS
    assert succeed(command, source, "--limit", "32") == "data/raw/rows-32.jsonl: already imported\n"


def test_a_sample_of_2k_is_one_of_2000(tmp_path: Path) -> None:
    assert [samples.size(text) for text in (None, "", "32", "2k", "2000", "100k")] == [0, 0, 32, 2000, 2000, 100_000]


def test_every_row_is_as_likely_in_a_sample(tmp_path: Path) -> None:
    source, out = tmp_path / "rows.txt", tmp_path / "out.jsonl"
    source.write_text("".join(f"{number}\n" for number in range(20)), encoding="utf-8")
    taken = dict.fromkeys(range(20), 0)
    for seed in range(1000):
        drawn = [int(row.values["text"]) for row in raw.rows(samples.draw(source, out, 20, 5, seed))]
        assert len(drawn) == 5
        for number in drawn:
            taken[number] += 1
    assert sum(taken.values()) == 5000
    assert all(195 <= times <= 305 for times in taken.values()), taken  # 250, four deviations of 13.7 either way


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl.gz", "rows.csv", "rows.parquet", "rows.txt.gz"])
def test_a_sample_of_any_kind_keeps_the_values(tmp_path: Path, name: str) -> None:
    import pyarrow
    from pyarrow import parquet

    path, out = tmp_path / name, tmp_path / "out.jsonl"
    rows = [
        {
            "text": f"{number} \u2028 \U0001f600 \u00e9 \x00",
            "float": number / 3,
            "whole": 1.0,
            "none": None,
            "list": [{"a": number}],
        }
        for number in range(10)
    ]
    if name == "rows.parquet":
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif name == "rows.csv":
        path.write_text("a,b\n" + "".join(f'"{number}\n\u00e9",\n' for number in range(10)), encoding="utf-8")
    elif name == "rows.json":
        path.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    else:
        path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    expected = [row.values for row in raw.rows(path)]
    drawn = [row.values for row in raw.rows(samples.draw(path, out, 10, 10, 7))]
    assert drawn == expected
    assert json.dumps(drawn) == json.dumps(expected)  # 1.0 is still no 1, and the keys stand in their order
    few = [row.values for row in raw.rows(samples.draw(path, out, 10, 4, 7))]
    assert [row for row in expected if row in few] == few


def test_half_a_character_stays_half_a_character(tmp_path: Path) -> None:
    path, out = tmp_path / "rows.jsonl", tmp_path / "out.jsonl"
    path.write_bytes(b'{"text": "\\ud83d and \xc3\xa9"}\n')
    samples.draw(path, out, 1, 1, 7)
    assert [row.values for row in raw.rows(out)] == [{"text": "\ud83d and \u00e9"}]


def test_a_row_that_json_cannot_hold_is_named(tmp_path: Path, fail: Callable[..., str]) -> None:
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.Table.from_pylist([{"image": b"\xff"}]), tmp_path / "rows.parquet")
    message = "rows.parquet:1: Object of type bytes is not JSON serializable; import the file without --limit"
    assert fail(command, tmp_path / "rows.parquet", "--limit", "1") == message
    assert list((tmp_path / "data/raw").iterdir()) == []


class Web(ThreadingHTTPServer):
    """A server on the loopback interface; `answers` holds status, headers and body by path and query."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Page)
        self.answers: dict[str, tuple[int, dict[str, str], bytes]] = {}
        self.broken = threading.Event()
        self.scheme = "http"

    @property
    def address(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.server_port}"


class Page(BaseHTTPRequestHandler):
    server: Web

    def do_GET(self) -> None:
        status, headers, body = self.server.answers.get(self.path, (404, {}, b""))
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
        if int(headers.get("Content-Length", 0)) > len(body):
            self.server.broken.wait(60)  # half of it is there: break off, but not before the test says so
        self.close_connection = True

    def log_message(self, *arguments: Any) -> None:
        """Stay silent."""


@pytest.fixture
def web() -> Iterator[Web]:
    with Web() as server:
        server.answers["/rows.jsonl"] = (200, {}, ROWS)
        server.broken.set()
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def secure(web: Web, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    """The same over TLS, with a certificate that only SSL_CERT_FILE makes good."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - datetime.timedelta(days=1)).not_valid_after(
        now + datetime.timedelta(days=1)
    )
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), False)
    certificate = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    file = tmp_path_factory.mktemp("tls") / "server.pem"
    file.write_bytes(private + certificate)
    with Web() as server:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        server.scheme, server.answers = "https", web.answers
        server.broken.set()
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("SSL_CERT_FILE", str(file))
        yield server
        server.shutdown()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for key in set(os.environ) - set(PLAIN):
        monkeypatch.delenv(key)


def test_an_address_is_recorded_without_its_secrets(
    repository: Path, web: Web, succeed: Callable[..., str], fail: Callable[..., str]
) -> None:
    web.answers["/a%20folder/rows.jsonl?key=secret"] = (200, {}, ROWS)
    address = web.address.replace("//", "//user:password@") + "/a%20folder/rows.jsonl?key=secret#part"
    shown = f"{web.address}/a%20folder/rows.jsonl"
    output = succeed(command, address, "--sha256", sha256(ROWS).upper())
    assert output.splitlines()[0] == f"data/raw/rows.jsonl: 100 rows of {shown}, licence unknown"
    assert record(repository, "rows.jsonl")["desc"] == f"100 rows of {shown}"
    assert record(repository, "rows.jsonl")["meta"] == {
        "source": shown,
        "revision": sha256(ROWS),
        "licence": "unknown",
        "rows": 100,
    }
    assert succeed(command, address) == "data/raw/rows.jsonl: already imported\n"
    web.answers.clear()
    assert fail(command, address) == f"{shown}: 404 Not Found; check the address"


def test_packed_bytes_stay_packed(repository: Path, web: Web, succeed: Callable[..., str]) -> None:
    packed = gzip.compress(ROWS, mtime=0)
    web.answers["/rows.jsonl.gz"] = (200, {"Content-Encoding": "gzip"}, packed)
    succeed(command, f"{web.address}/rows.jsonl.gz")
    assert (repository / "data/raw/rows.jsonl.gz").read_bytes() == packed
    succeed(command, f"{web.address}/rows.jsonl.gz", "--limit", "3")
    assert len(lines(repository, "rows-3.jsonl")) == 3


def test_an_address_without_a_file_name_needs_one(
    repository: Path, web: Web, succeed: Callable[..., str], fail: Callable[..., str]
) -> None:
    web.answers["/?id=3"] = web.answers["/download"] = (200, {}, ROWS)
    assert fail(command, f"{web.address}/?id=3") == (
        f"the address: not named like a data file ({KINDS}); give a --name that is"
    )
    assert fail(command, f"{web.address}/download") == (
        f"download: not named like a data file ({KINDS}); give a --name that is"
    )
    succeed(command, f"{web.address}/?id=3", "--name", "rows.jsonl")
    assert (repository / "data/raw/rows.jsonl").read_bytes() == ROWS


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("http://example.com/a.csv?key=x", "http://example.com/a.csv: not https://, {}"),
        ("http://127.0.0.1.example.com/a.csv", "http://127.0.0.1.example.com/a.csv: not https://, {}"),
        ("http://localhost.example.com/a.csv", "http://localhost.example.com/a.csv: not https://, {}"),
        ("ftp://127.0.0.1/a.csv", "ftp://127.0.0.1/a.csv: not https://, {}"),
        ("file:///etc/a.csv", "file:/etc/a.csv: not https://, {}"),
        ("https:///a.csv", "https:/a.csv: names no host; mend the address"),
        ("https://host:port/a.csv", "https://host:port/a.csv: Invalid port: 'port'; mend the address"),
    ],
)
def test_only_https_is_asked(repository: Path, fail: Callable[..., str], address: str, message: str) -> None:
    assert fail(command, address) == message.format("so anyone on the way could change it; find one that is")


def test_a_broken_connection_leaves_nothing(repository: Path, web: Web, fail: Callable[..., str]) -> None:
    web.answers["/rows.jsonl"] = (200, {"Content-Length": str(len(ROWS) + 1)}, ROWS)
    before = tree(repository)
    address = f"{web.address}/rows.jsonl"
    assert fail(command, address) == (
        f"{address}: peer closed connection without sending complete message body (received {len(ROWS)} bytes, "
        f"expected {len(ROWS) + 1}); check the address and the network"
    )
    address = "http://127.0.0.1:9/rows.jsonl"
    assert fail(command, address) == f"{address}: [Errno 111] Connection refused; check the address and the network"
    assert tree(repository) == before


def test_a_way_that_leads_off_https_is_not_followed(
    repository: Path, web: Web, secure: Web, fail: Callable[..., str]
) -> None:
    for start in (web, secure):
        for to in (
            f"{web.address}/rows.jsonl?key=secret",
            "http://example.com/rows.jsonl",
            "ftp://127.0.0.1/rows.jsonl",
        ):
            web.answers["/old.jsonl"] = (302, {"Location": to}, b"")
            assert fail(command, f"{start.address}/old.jsonl") == (
                f"{start.address}/old.jsonl: leads on to {to.partition('?')[0]}, which is not https://"
            )
    assert "rows.jsonl" not in tree(repository)


def test_https_is_followed_where_its_certificate_is_good(
    repository: Path,
    web: Web,
    secure: Web,
    succeed: Callable[..., str],
    fail: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    web.answers["/old.jsonl"] = (302, {"Location": f"{secure.address}/rows.jsonl"}, b"")
    succeed(command, f"{secure.address}/old.jsonl")
    assert record(repository, "old.jsonl")["meta"]["source"] == f"{secure.address}/old.jsonl"
    assert (repository / "data/raw/old.jsonl").read_bytes() == ROWS
    monkeypatch.delenv("SSL_CERT_FILE")
    for address in (f"{secure.address}/rows.jsonl", f"{web.address}/old.jsonl"):
        message = fail(command, address, "--name", "new.jsonl")
        assert message.startswith(f"{address}: [SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: self")
        assert message.endswith("; check the address and the network")
    assert "new.jsonl" not in tree(repository)


@pytest.fixture
def dataset(tmp_path_factory: pytest.TempPathFactory, hub: Hub) -> Path:
    """A dataset of the hub, lockstep/rows: a card, code, and one data file."""
    folder = tmp_path_factory.mktemp("dataset")
    (folder / "data").mkdir()
    (folder / "data/train.jsonl").write_bytes(ROWS)
    for name in ("README.md", "rows.py", ".gitattributes"):
        (folder / name).write_text("raise SystemExit('was run')\n", encoding="utf-8")
    hub.datasets, hub.licences, hub.asked = {"lockstep/rows": folder}, {"lockstep/rows": "apache-2.0"}, []
    return folder


@pytest.fixture
def fetch(repository: Path, hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[int, str]]:
    """Import from that hub as a process of its own, and give its exit code and what it said."""
    cache = tmp_path_factory.mktemp("cache")

    def fetch(*arguments: str, address: str = hub.address) -> tuple[int, str]:
        environment = ENVIRONMENT | {"HF_ENDPOINT": address, "HF_HUB_OFFLINE": "0", "HF_HOME": str(cache)}
        line = [sys.executable, "-m", "tools.import", *arguments]
        done = subprocess.run(line, cwd=repository, env=environment, capture_output=True, text=True, timeout=100)
        assert "Traceback" not in done.stderr
        return done.returncode, done.stderr.splitlines()[-1] if done.returncode else done.stdout

    return fetch


def test_a_datasets_file_comes_alone_with_commit_and_licence(
    repository: Path, dataset: Path, hub: Hub, fetch: Callable[..., tuple[int, str]]
) -> None:
    code, output = fetch("lockstep/rows", "--revision", COMMIT)
    assert (code, output.splitlines()) == (
        0,
        [
            "data/raw/train.jsonl: 100 rows of lockstep/rows, licence apache-2.0",
            "next: commit data/train.jsonl.dvc, share the rows with `dvc push`, then `make repro`",
        ],
    )
    assert hub.asked == ["data/train.jsonl"]
    assert record(repository, "train.jsonl")["meta"] == {
        "source": "lockstep/rows",
        "file": "data/train.jsonl",
        "revision": COMMIT,
        "licence": "apache-2.0",
        "rows": 100,
    }
    assert (repository / "data/raw/train.jsonl").read_bytes() == ROWS
    assert sorted(tree(repository)) == ["raw/.gitignore", "raw/own.jsonl", "raw/train.jsonl", "train.jsonl.dvc"]
    assert fetch("lockstep/rows", "--revision", COMMIT) == (0, "data/raw/train.jsonl: already imported\n")


def test_one_file_of_several_must_be_named(
    repository: Path, dataset: Path, hub: Hub, fetch: Callable[..., tuple[int, str]]
) -> None:
    (dataset / "data/test.parquet").write_bytes(b"never read")
    hub.licences["lockstep/rows"] = ["mit", "cc-by-4.0"]
    at = ("lockstep/rows", "--revision", COMMIT)
    several = "choose with --file among data/test.parquet, data/train.jsonl"
    assert fetch(*at) == (1, f"Error: lockstep/rows: 2 data files; {several}")
    assert fetch(*at, "--file", "rows.py") == (1, f"Error: lockstep/rows: no data file rows.py; {several}")
    code, output = fetch(*at, "--file", "data/train.jsonl", "--name", "rows.jsonl", "--limit", "5", "--seed", "1")
    assert (code, output.splitlines()[0]) == (
        0,
        "data/raw/rows.jsonl: 5 rows of lockstep/rows, licence mit, cc-by-4.0",
    )
    assert hub.asked == ["data/train.jsonl"]
    assert record(repository, "rows.jsonl")["meta"] == {
        "source": "lockstep/rows",
        "file": "data/train.jsonl",
        "revision": COMMIT,
        "licence": "mit, cc-by-4.0",
        "rows": 5,
        "limit": 5,
        "seed": 1,
    }
    for number in range(30):
        (dataset / f"part-{number:02}.csv").write_bytes(b"")
    code, message = fetch(*at)
    assert message.startswith("Error: lockstep/rows: 32 data files; choose with --file among data/test.parquet, ")
    assert message.endswith(", part-17.csv and 12 more")


def test_a_dataset_without_data_files_is_refused(
    dataset: Path, hub: Hub, fetch: Callable[..., tuple[int, str]]
) -> None:
    (dataset / "data/train.jsonl").unlink()
    assert fetch("lockstep/rows", "--revision", COMMIT) == (1, f"Error: lockstep/rows: no data file ({KINDS})")


@pytest.mark.parametrize(
    ("name", "status"), [("lockstep/absent", 404), ("lockstep/gated", 403), ("lockstep/rows", 0)]
)
def test_a_hub_that_refuses_is_named_with_what_to_check(
    repository: Path, dataset: Path, fetch: Callable[..., tuple[int, str]], name: str, status: int
) -> None:
    before = tree(repository)
    at = (name, "--revision", COMMIT)
    code, message = fetch(*at) if status else fetch(*at, address="http://127.0.0.1:9")
    assert code == 1
    assert message.startswith(f"Error: {name} at {COMMIT}: {status or '[Errno 111] Connection refused'}")
    assert message.endswith("; check the name and hash, the network, and for gated datasets HF_TOKEN")
    assert tree(repository) == before


@pytest.mark.parametrize("revision", [None, "main", "v1.0", COMMIT[:7], COMMIT.upper(), COMMIT + "0", COMMIT + "\n"])
def test_a_dataset_without_a_full_commit_hash_is_refused(
    repository: Path, fail: Callable[..., str], revision: str | None
) -> None:
    assert fail(command, "lockstep/rows", *(["--revision", revision] if revision else [])) == (
        f"lockstep/rows: --revision: {revision!r} is no full commit hash (40 hex digits), and a branch moves; get "
        "the hash with `git ls-remote https://huggingface.co/datasets/lockstep/rows HEAD`"
    )


def test_dvc_sees_the_rows_and_brings_them_back(repository: Path, source: Path, succeed: Callable[..., str]) -> None:
    assert "up to date" in run(repository, "dvc status")
    succeed(command, source)
    assert json.loads(run(repository, "dvc status --json")) == {
        "preprocess": [{"changed deps": {"data/raw": "modified"}}]
    }
    run(repository, "dvc repro -q")
    prepared = repository / "data/prepared/train.jsonl"
    assert prepared.read_bytes() == OWN + ROWS  # the stage's `*` finds no .dvc file there either
    for line in ("git add -A", "git commit -qm import", "dvc push -q"):
        run(repository, line)
    before = tree(repository)
    for path in (".dvc/cache", "data/prepared"):
        shutil.rmtree(repository / path)
    (repository / "data/raw/rows.jsonl").unlink()
    run(repository, "dvc pull -q")
    assert tree(repository) == before
    assert prepared.read_bytes() == OWN + ROWS
    assert "didn't change" in run(repository, "dvc repro")
    assert run(repository, "git status --porcelain") == ""


def test_what_is_recorded_survives_dvc_and_never_reruns_a_stage(
    repository: Path, source: Path, succeed: Callable[..., str]
) -> None:
    succeed(command, source, "--licence", "mit")
    run(repository, "dvc repro -q")
    known = record(repository, "rows.jsonl")
    file = repository / "data/rows.jsonl.dvc"
    file.write_text(file.read_text(encoding="utf-8").replace("licence: mit", "licence: bsd"), encoding="utf-8")
    with (repository / "data/raw/.gitignore").open("a", encoding="utf-8") as ignored:
        ignored.write("/mine.jsonl\n")
    assert "up to date" in run(repository, "dvc status")
    known["meta"]["licence"] = "bsd"
    target = repository / "data/raw/rows.jsonl"
    for line in ("dvc commit -f data/rows.jsonl.dvc", "dvc add data/raw/rows.jsonl"):
        target.unlink()
        target.write_bytes(ROWS + OWN)
        run(repository, line)
        changed = record(repository, "rows.jsonl")
        assert changed["outs"][0]["md5"] == hashlib.md5(ROWS + OWN).hexdigest()
        assert {key: changed[key] for key in ("desc", "meta")} == {key: known[key] for key in ("desc", "meta")}
    assert sorted(tree(repository)) == ["raw/.gitignore", "raw/own.jsonl", "raw/rows.jsonl", "rows.jsonl.dvc"]


def test_a_hash_that_looks_like_a_number_stays_a_text(repository: Path, source: Path) -> None:
    for number, revision in enumerate(("1" * 40, "1" * 20 + "e" + "1" * 19)):
        path = repository / "data" / "raw" / "building" / f"rows-{number}.jsonl"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(ROWS)
        with contextlib.chdir(repository):
            records.track(path, Path("data/raw") / path.name, {"meta": {"revision": revision}})
        assert record(repository, path.name)["meta"] == {"revision": revision}


def test_make_passes_on_what_it_is_told_and_no_name_of_the_machine(repository: Path, source: Path) -> None:
    shutil.copy(ROOT / "Makefile", repository)
    odd = source.rename(source.with_name('it\'s $HOME `id` "rows".jsonl'))
    environment = ENVIRONMENT | {"NAME": "machine", "LIMIT": "3"}
    made = f"{Path(sys.prefix)}/.pipeline"
    make = ["make", "--no-print-directory", "--old-file", made, f"VENV={sys.prefix}", "import"]
    told = [f"SOURCE={odd}".replace("$", "$$"), "NAME=my rows.jsonl", "LICENCE=CC BY 4.0", "LIMIT=5", "SEED=1"]
    done = subprocess.run([*make, *told], cwd=repository, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == f"data/raw/my rows.jsonl: 5 rows of {odd.name}, licence CC BY 4.0"
    assert record(repository, "my rows.jsonl")["meta"]["seed"] == 1
    done = subprocess.run(
        [*make, told[0], "FORCE=1"], cwd=repository, env=environment, capture_output=True, text=True
    )
    assert done.stdout.splitlines()[0] == f"data/raw/{odd.name}: 100 rows of {odd.name}, licence unknown"
    done = subprocess.run(make, cwd=repository, env=environment, capture_output=True, text=True)
    assert "Error: SOURCE: empty; give a file, an https:// address, or owner/name on the hub\n" in done.stderr
