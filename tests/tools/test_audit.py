"""Known vulnerabilities of locked packages: the list is compared with the locks, and made again from the database."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from stages.common.params import read_yaml
from tools import audit

ROOT = Path(__file__).resolve().parents[2]
LISTED = """\
# What is known.
checked: 2026-01-02
advisories:
  - {package: Some.Package, id: CVE-1, affected: <1.2}
accepted: {}
"""
# What the OSV database answers for jinja2 3.1.2, shortened: https://osv.dev/vulnerability/GHSA-h5c8-rqwp-cp95
ANSWER = {
    "vulns": [
        {
            "id": "GHSA-h5c8-rqwp-cp95",
            "summary": "xmlattr filter accepts keys with spaces",
            "details": "",
            "modified": "2024-06-21T21:33:53Z",
            "published": "2024-01-11T15:20:48Z",
            "aliases": ["CVE-2024-22195"],
            "affected": [
                {
                    "package": {"name": "jinja2", "ecosystem": "PyPI"},
                    "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "3.1.3"}]}],
                }
            ],
        }
    ]
}


def write(folder: Path, lock: str, listed: str = LISTED) -> Path:
    for name in audit.LOCKS:
        (folder / name).write_text(lock if name == "serve.txt" else "", encoding="utf-8")
    (folder / "advisories.yaml").write_text(listed, encoding="utf-8")
    return folder


def run(folder: Path, *options: str) -> Result:
    return CliRunner().invoke(audit.main, ["--requirements", str(folder), *options])


def test_the_locks_of_this_project_have_no_vulnerability_that_is_listed() -> None:
    done = run(ROOT / "requirements")
    assert done.exit_code == 0, done.output


def test_every_accepted_vulnerability_is_listed_and_locked() -> None:
    listed = audit.load(ROOT / "requirements" / "advisories.yaml")
    accepted = listed.accepted.keys()
    locked = [(name, *one) for name in audit.LOCKS for one in audit.versions(ROOT / "requirements" / name)]
    found = "\n".join(audit.vulnerable(locked, listed.model_copy(update={"accepted": {}})))
    assert [one for one in accepted if one not in found] == []


@pytest.mark.parametrize(
    ("lock", "line"),
    [
        ("some-package==1.1 ; python_version < '4'\n", "serve.txt: some-package 1.1 has CVE-1 (affects <1.2)"),
        ("other==1\nsome_package[extra]==1.1rc1\n", "serve.txt: some-package 1.1rc1 has CVE-1 (affects <1.2)"),
    ],
)
def test_a_locked_version_with_a_vulnerability_is_an_error(tmp_path: Path, lock: str, line: str) -> None:
    done = run(write(tmp_path, lock))
    assert done.exit_code == 1
    assert line in done.output
    assert "make lock" in done.output


def test_a_later_version_or_an_accepted_vulnerability_is_none(tmp_path: Path) -> None:
    assert run(write(tmp_path, "some-package==1.2\n")).exit_code == 0
    accepted = LISTED.replace("accepted: {}", "accepted: {CVE-1: not reached}")
    done = run(write(tmp_path, "some-package==1.1\n", accepted))
    assert done.exit_code == 0
    assert "1 locked packages" in done.output
    assert "make audit" in done.output  # the list is old


@pytest.mark.parametrize("text", ["[", "checked: 2026-01-02\n", LISTED.replace("<1.2", "1.2 and less")])
def test_a_broken_list_is_one_error_with_its_path(tmp_path: Path, text: str) -> None:
    done = run(write(tmp_path, "", text))
    assert done.exit_code == 1
    assert done.output.startswith(f"Error: {tmp_path / 'advisories.yaml'}:")
    assert len(done.output.splitlines()) == 1


@pytest.fixture
def database() -> Iterator[str]:
    """A server that answers as the OSV database does."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            """Answer one query."""
            query = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            known = query["package"]["name"] == "jinja2" and query["version"] == "3.1.2"
            body = json.dumps(ANSWER if known else {}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/v1/query"
        server.shutdown()


@pytest.mark.slow
def test_what_pip_audit_finds_is_added_to_the_list(tmp_path: Path, database: str) -> None:
    """With pip-audit itself, asking a database of the same form."""
    done = run(write(tmp_path, "jinja2==3.1.2\nclick==8.1.7\n"), "--refresh", "--osv-url", database)
    text = (tmp_path / "advisories.yaml").read_text(encoding="utf-8")
    assert done.exit_code == 1, done.output
    assert "serve.txt: jinja2 3.1.2 has CVE-2024-22195 (affects <3.1.3)" in done.output
    assert text.startswith("# What is known.")
    document = read_yaml(tmp_path / "advisories.yaml")
    assert [one["package"] for one in document["advisories"]] == ["Some.Package", "jinja2"]
    assert document["checked"].year > 2025


@pytest.mark.slow
def test_without_the_database_the_list_stays(tmp_path: Path) -> None:
    done = run(write(tmp_path, "jinja2==3.1.2\n"), "--refresh", "--osv-url", "http://127.0.0.1:9/v1/query")
    assert done.exit_code == 1
    assert "pip-audit gave no report" in done.output
    assert (tmp_path / "advisories.yaml").read_text(encoding="utf-8") == LISTED
