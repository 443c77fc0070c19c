"""vLLM and the chat page reach nothing but the served model: no other machine, and no name server."""

import configparser
import json
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from processes import below, until, words
from serving import Served
from traced import STRACE, attempts, require_strace

from stages.eval import guard

pytestmark = pytest.mark.slow


def test_an_attempt_is_found_in_a_trace() -> None:
    """What the page does with an address of a company, once with a name server of this machine and once without."""
    local = 'connect(9, {sa_family=AF_INET, sin_port=htons(8000), sin_addr=inet_addr("127.0.0.1")}, 16) = 0'
    found = [
        'connect(9, {sa_family=AF_INET, sin_port=htons(53), sin_addr=inet_addr("127.0.0.53")}, 16) = 0',
        'connect(9, {sa_family=AF_INET, sin_port=htons(443), sin_addr=inet_addr("192.0.2.1")}, 16) = -1 ENETUNREACH',
        'sendto(9, "x", 1, 0, {sa_family=AF_INET6, sin6_port=htons(80), inet_pton(AF_INET6, "2001:db8::1")}, 28) = 1',
    ]
    assert attempts("\n".join([local, *found])) == found


@pytest.fixture
def page(served: Served, tmp_path: Path) -> Iterator[tuple[httpx.Client, Path]]:
    """The chat page as supervisord starts it, but without nginx in front, with chats of its own, and traced."""
    require_strace()
    config = configparser.RawConfigParser()
    config.read(served.folder / ".serve" / "supervisord.conf")
    socket, variables, trace = tmp_path / "page.sock", tmp_path / "variables.json", tmp_path / "trace"
    known = (served.folder / ".serve" / "variables" / "open-webui.json").read_text(encoding="utf-8")
    own = {"DATA_DIR": str(tmp_path / "data"), "STATIC_DIR": str(tmp_path / "static")}
    variables.write_text(json.dumps(json.loads(known) | own), encoding="utf-8")
    (tmp_path / "data").mkdir()
    replaced = {"open-webui.sock": str(socket), "open-webui.json": str(variables)}
    line = shlex.split(config["program:open-webui"]["command"])
    line = [next((new for old, new in replaced.items() if word.endswith(old)), word) for word in line]
    command = [*STRACE, str(trace), *line]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=served.folder, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True
        )
    client = httpx.Client(transport=httpx.HTTPTransport(uds=str(socket)), base_url="http://page", timeout=120)
    try:
        until(lambda: socket.exists() or process.poll() is not None, 240)
        until(lambda: client.get("/health").is_success)
        account = {"email": served.key("ADMIN_EMAIL"), "password": served.key("ADMIN_PASSWORD")}
        token = client.post("/api/v1/auths/signin", json=account).raise_for_status().json()["token"]
        client.headers["Authorization"] = f"Bearer {token}"
        yield client, trace
    finally:
        client.close()
        process.communicate()  # closes the pipe, at which the guard ends the page


def test_files_memories_knowledge_and_web_search_stay_on_this_machine(
    served: Served, page: tuple[httpx.Client, Path]
) -> None:
    """Also of a page whose proxy passes everything."""
    client, trace = page
    file = (
        client.post("/api/v1/files/", files={"file": ("notes.txt", b"The word is zebra.")}).raise_for_status().json()
    )
    status = f"/api/v1/files/{file['id']}/process/status"
    until(lambda: client.get(status).raise_for_status().json()["status"] == "completed")
    base = client.post(
        "/api/v1/knowledge/create", json={"name": "notes", "description": "of mine"}
    ).raise_for_status()
    added = f"/api/v1/knowledge/{base.json()['id']}/file/add"
    client.post(added, json={"file_id": file["id"]}).raise_for_status()
    assert client.post("/api/v1/memories/add", json={"content": "I like zebras"}).status_code == 404
    question = {"model": served.model(), "messages": [{"role": "user", "content": "What comes after Thursday?"}]}

    def ask(**more: object) -> dict[str, object]:
        return client.post("/api/chat/completions", json=question | more).raise_for_status().json()

    for source in ({"type": "file", "id": file["id"]}, {"type": "collection", "id": base.json()["id"]}):
        assert "The word is zebra." in json.dumps(ask(files=[source])["sources"])
    ask(features={"web_search": True, "memory": True, "image_generation": True})
    ask(files=[{"type": "url", "url": "http://example.com/"}])
    for path in ("/api/v1/retrieval/process/web", "/api/v1/retrieval/process/youtube"):
        assert client.post(path, json={"url": "http://example.com/"}).is_error
    assert client.post("/api/v1/retrieval/process/web/search", json={"queries": ["zebras"]}).is_error
    seen = trace.read_text(encoding="utf-8")
    assert f"htons({served.variables['API_PORT']})" in seen  # the page's way to the model
    assert attempts(seen) == []


def test_vllm_and_the_page_have_no_network_but_loopback(served: Served) -> None:
    if not guard.can_leave_network():
        pytest.skip("this system allows network namespaces to root only: run `sudo make test ARGS=tests/serve`")
    found = set()
    for pid in below(served.supervisor()):
        interfaces = re.findall(r"^ *(\S+):", Path(f"/proc/{pid}/net/dev").read_text(encoding="utf-8"), re.MULTILINE)
        line = " ".join(words(pid))
        program = next((name for name in ("bin/vllm", "webui_server.py") if f"{name} " in line), None)
        if program:
            assert interfaces == ["lo"], line
            found.add(program)
    assert found == {"bin/vllm", "webui_server.py"}
