"""nginx in front of several servers: each gets its share, and requests do not go to one that is down."""

import contextlib
import socket
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from needs import missing
from serving import free_port

from tools.serve import nginx
from tools.serve.nginx import api_server, find_nginx, nginx_program, page_server

pytestmark = pytest.mark.slow


class Server(ThreadingHTTPServer):
    """A server that answers with its port."""

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def end(self) -> None:
        self.shutdown()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.do_GET()

    def do_GET(self) -> None:
        body = str(self.connection.getsockname()[1]).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Seen", self.headers.get("X-Real-IP", ""))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def servers() -> Iterator[list[Server]]:
    found = [Server(free_port()) for _ in range(2)]
    yield found
    for server in found:
        server.end()


@contextlib.contextmanager
def proxied(servers: list[Server], trusted_proxy: str = "") -> Iterator[httpx.Client]:
    """Ask through nginx, which stands in front of both servers."""
    command = find_nginx()
    if not command:
        missing("nginx")
    port = free_port()
    addresses = [f"127.0.0.1:{server.server_address[1]}" for server in servers]
    program = nginx_program(command, [api_server("replicas", [f"127.0.0.1:{port}"], addresses, trusted_proxy)], [])
    checked = subprocess.run([*program.command, "-t"], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr
    process = subprocess.Popen(program.command, stdout=subprocess.DEVNULL)
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", transport=httpx.HTTPTransport(retries=20)) as client:
        yield client
    process.terminate()
    process.wait()


@pytest.fixture
def client(servers: list[Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[httpx.Client]:
    monkeypatch.setattr(nginx, "HOME", tmp_path)
    with proxied(servers) as client:
        yield client


@pytest.mark.slow
@pytest.mark.parametrize(
    ("trusted", "seen"), [("", "127.0.0.1"), ("127.0.0.1", "203.0.113.9"), ("10.0.0.1", "127.0.0.1")]
)
def test_a_client_has_its_address_and_no_other_unless_a_trusted_proxy_says_so(
    servers: list[Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trusted: str, seen: str
) -> None:
    monkeypatch.setattr(nginx, "HOME", tmp_path)
    headers = {"X-Forwarded-For": "203.0.113.9", "X-Real-IP": "203.0.113.8"}
    with proxied(servers, trusted) as client:
        assert client.get("/v1/models", headers=headers).headers["Seen"] == seen


def asked(client: httpx.Client, times: int) -> Counter[str]:
    return Counter(client.get("/v1/models").raise_for_status().text for _ in range(times))


@pytest.mark.slow
def test_each_server_gets_its_share(client: httpx.Client, servers: list[Server]) -> None:
    assert sorted(asked(client, 20).values()) == [10, 10]


@pytest.mark.slow
def test_a_server_that_is_down_gets_no_request(client: httpx.Client, servers: list[Server]) -> None:
    one, other = servers
    one.end()
    assert asked(client, 20) == {str(other.server_address[1]): 20}


@pytest.mark.slow
def test_a_request_that_one_server_does_not_accept_goes_to_the_other(
    client: httpx.Client, servers: list[Server]
) -> None:
    """As with a container that is gone: no error says so."""
    one, other = servers
    one.end()
    with contextlib.ExitStack() as stack:
        deaf = stack.enter_context(socket.create_server(one.server_address, backlog=0))
        for _ in range(2):  # the first fills the backlog, the others wait
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(deaf.getsockname())
        answers = {client.post("/v1/completions", json={}, timeout=20).raise_for_status().text for _ in range(4)}
    assert answers == {str(other.server_address[1])}


@pytest.mark.slow
def test_without_a_server_the_client_is_told_to_try_again(client: httpx.Client, servers: list[Server]) -> None:
    for server in servers:
        server.end()
    answer = client.get("/v1/models")
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
    assert answer.json()["error"]["message"] == "the model does not answer yet; try again"


@pytest.mark.slow
def test_a_path_that_is_not_named_is_not_found(client: httpx.Client) -> None:
    assert [client.get(path).status_code for path in ("/metrics", "/v1/models/x", "/", "/v1/load_lora_adapter")] == [
        404
    ] * 4


def test_the_template_is_filled_in_as_envsubst_does_in_the_image() -> None:
    text = api_server("awq", ["127.0.0.1:8000", "unix:/c"], ["unix:/a", "unix:/b"], "")
    assert "${" not in text
    assert "upstream awq {" in text
    assert "server unix:/a; server unix:/b;" in text
    assert "listen 127.0.0.1:8000; listen unix:/c;" in text
    assert "${" not in page_server(["127.0.0.1:3000"], "unix:/a", "127.0.0.1", plugins=False, trusted_proxy="")
