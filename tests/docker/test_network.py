"""Corporate networks: base downloads a model through a proxy, from a hub with a private certificate."""

import contextlib
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hub import COMMIT, Hub
from stage_runs import write_params

from stages.common import files

Run = Callable[..., "subprocess.CompletedProcess[str]"]
pytestmark = pytest.mark.slow


class Proxy(ThreadingHTTPServer):
    """A proxy that only knows CONNECT; `asked` lists the requested hosts."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Tunnel)
        self.asked: list[str] = []


class Tunnel(BaseHTTPRequestHandler):
    server: Proxy

    def do_CONNECT(self) -> None:
        self.server.asked.append(self.path)
        with socket.create_connection(("127.0.0.1", int(self.path.partition(":")[2]))) as there:
            self.send_response(200)
            self.end_headers()
            back = threading.Thread(target=self.copy, args=(there, self.connection), daemon=True)
            back.start()
            self.copy(self.connection, there)
            back.join()

    @staticmethod
    def copy(one: socket.socket, other: socket.socket) -> None:
        with contextlib.suppress(OSError):  # either side may close first
            while chunk := one.recv(65536):
                other.sendall(chunk)
            other.shutdown(socket.SHUT_WR)

    def log_message(self, *arguments: Any) -> None:
        """Stay silent."""


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for hub.internal that no CA signed, and its key."""
    folder = tmp_path_factory.mktemp("certificate")
    line = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=hub.internal"
    names = ["-addext", "subjectAltName=DNS:hub.internal", "-out", "ca.pem", "-keyout", "key.pem"]
    subprocess.run([*line.split(), *names], cwd=folder, check=True, capture_output=True)
    return folder / "ca.pem", folder / "key.pem"


@pytest.fixture
def secure_hub(certificate: tuple[Path, Path], base: Path, tmp_path: Path) -> Iterator[Hub]:
    """A hub behind TLS with the built-in model."""
    with Hub() as server:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        folder = shutil.copytree(base, tmp_path / "model", ignore=shutil.ignore_patterns("manifest.json"))
        server.models = {"lockstep/model": folder}
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with Proxy() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def test_base_uses_the_proxy_and_trusts_the_given_certificate(
    run: Run, checkout: Path, secure_hub: Hub, proxy: Proxy, certificate: tuple[Path, Path]
) -> None:
    write_params(checkout, {"base.source": "hub", "base.id": "lockstep/model", "base.revision": COMMIT})
    way = {
        "HF_ENDPOINT": f"https://hub.internal:{secure_hub.server_port}",
        "HTTPS_PROXY": f"http://127.0.0.1:{proxy.server_port}",
        "NO_PROXY": "",
        "no_proxy": "",
        "HF_HOME": str(checkout / "none"),  # without one the downloads go to the checkout, where nothing is yet
    }
    command = ("python", "-m", "stages.base")
    done = run(*command, stage="base", **way, SSL_CERT_FILE=str(certificate[0]))
    assert done.returncode == 0, done.stdout
    assert set(proxy.asked) == {f"hub.internal:{secure_hub.server_port}"}
    found = files.hashes(checkout / "models" / "base")
    assert found.pop("manifest.json")
    assert found == files.hashes(secure_hub.models["lockstep/model"])
    shutil.rmtree(checkout / "models")
    shutil.rmtree(checkout / ".scratch" / "huggingface")
    done = run(*command, stage="base", **way, SSL_CERT_FILE="")
    assert done.returncode == 1
    assert "CERTIFICATE_VERIFY_FAILED" in done.stdout
