"""Fixtures of the import tests."""

import datetime
import os
import shutil
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address
from pathlib import Path

import import_project
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hub import Hub
from import_project import ENVIRONMENT, OWN, PLAIN, ROWS, Web


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A git and DVC repository with one raw row in git, and a pipeline that has run."""
    folder = tmp_path_factory.mktemp("template")
    import_project.build(folder)
    return folder


@pytest.fixture
def project(template: Path, tmp_path: Path) -> Path:
    """A copy of that repository in tmp_path, where `succeed` and `fail` run."""
    return shutil.copytree(template, tmp_path, dirs_exist_ok=True)


@pytest.fixture
def raw_rows(tmp_path: Path) -> Path:
    """A folder with one raw row and without git and DVC, for imports that fail before they need them."""
    (tmp_path / "data" / "raw").mkdir(parents=True)
    (tmp_path / "data" / "raw" / "own.jsonl").write_bytes(OWN)
    (tmp_path / "dvc.yaml").write_text(import_project.PIPELINE, encoding="utf-8")
    return tmp_path


@pytest.fixture
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of 100 rows outside the project."""
    path = tmp_path_factory.mktemp("elsewhere") / "rows.jsonl"
    path.write_bytes(ROWS)
    return path


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
    """The same over TLS, with a certificate that is valid only through SSL_CERT_FILE."""
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
def fetch(project: Path, hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[int, str]]:
    """Import from that hub in a separate process; return exit code and output, or the last line of the error."""
    cache = tmp_path_factory.mktemp("cache")

    def fetch(*arguments: str, address: str = hub.address) -> tuple[int, str]:
        environment = ENVIRONMENT | {"HF_ENDPOINT": address, "HF_HUB_OFFLINE": "0", "HF_HOME": str(cache)}
        line = [sys.executable, "-m", "tools.import", *arguments]
        done = subprocess.run(line, cwd=project, env=environment, capture_output=True, text=True, timeout=100)
        assert "Traceback" not in done.stderr
        return done.returncode, done.stderr.splitlines()[-1] if done.returncode else done.stdout

    return fetch
