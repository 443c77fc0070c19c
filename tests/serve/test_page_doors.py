"""What the chat page's admin may not do: add code, connections or addresses; and which names the page answers to."""

import http.client
import os
import subprocess
from pathlib import Path

import httpx
import pytest
from needs import missing
from processes import below, words
from serving import Served

pytestmark = pytest.mark.slow
CODE = "class Tools:\n    pass\n"
PIPE = "class Pipe:\n    def pipe(self, body):\n        return open('/etc/passwd').read()\n"
META = {"id": "x", "name": "x", "meta": {"description": "x"}}
LOCAL = "http://127.0.0.1:9/x"
CONNECTION = {"ENABLE_OPENAI_API": True, "OPENAI_API_BASE_URLS": [LOCAL], "OPENAI_API_KEYS": ["x"]}
SERVER = {"url": LOCAL, "path": "openapi.json", "type": "mcp", "auth_type": "none", "key": "", "config": {}}
REFUSED = {
    "a function": ("POST", "/api/v1/functions/create", META | {"content": PIPE}),
    "a function by address": ("POST", "/api/v1/functions/load/url", {"url": LOCAL}),
    "a tool": ("POST", "/api/v1/tools/create", META | {"content": CODE}),
    "a tool by address": ("POST", "/api/v1/tools/load/url", {"url": LOCAL}),
    "a skill by address": ("POST", "/api/v1/skills/load/url", {"url": LOCAL}),
    "a tool server": ("POST", "/api/v1/configs/tool_servers", {"TOOL_SERVER_CONNECTIONS": [SERVER]}),
    "a question to a tool server": ("POST", "/api/v1/configs/tool_servers/verify", SERVER),
    "a terminal": ("POST", "/api/v1/configs/terminal_servers", {"TERMINAL_SERVER_CONNECTIONS": [SERVER]}),
    "direct connections": ("POST", "/api/v1/configs/connections", {"ENABLE_DIRECT_CONNECTIONS": True}),
    "all settings": ("POST", "/api/v1/configs/import", {"config": {"direct.enable": True}}),
    "all settings with keys": ("GET", "/api/v1/configs/export", None),
    "a connection": ("POST", "/openai/config/update", CONNECTION),
    "a question to a connection": ("POST", "/openai/verify", {"url": LOCAL, "key": "x"}),
    "the key of the connection": ("GET", "/openai/config", None),
    "any path of the model's server": ("POST", "/openai/tokenize", {"prompt": "x"}),
    "an Ollama": ("POST", "/ollama/config/update", {"ENABLE_OLLAMA_API": True, "OLLAMA_BASE_URLS": [LOCAL]}),
    "a pipeline": ("POST", "/api/v1/pipelines/add", {"url": LOCAL, "urlIdx": 0}),
    "the text at an address": ("POST", "/api/v1/retrieval/process/web", {"url": LOCAL, "collection_name": "x"}),
    "search on the web": ("POST", "/api/v1/retrieval/process/web/search", {"queries": ["x"]}),
    "embeddings elsewhere": ("POST", "/api/v1/retrieval/embedding/update", {"RAG_EMBEDDING_ENGINE": "openai"}),
    "settings of files": ("POST", "/api/v1/retrieval/config/update", {"TIKA_SERVER_URL": LOCAL}),
    "knowledge elsewhere": ("POST", "/api/v1/knowledge/external/source/test", {"url": LOCAL}),
    "pictures elsewhere": ("POST", "/api/v1/images/config/update", {"ENABLE_IMAGE_GENERATION": True}),
    "speech elsewhere": ("POST", "/api/v1/audio/config/update", {}),
    "code": ("POST", "/api/v1/utils/code/execute", {"code": "print(1)"}),
    "the data base": ("GET", "/api/v1/utils/db/download", None),
    "messages to an address": ("POST", "/api/v1/notifications/targets", {"url": LOCAL}),
    "events to an address": ("POST", "/api/events/webhooks", {"url": LOCAL}),
    "other accounts": ("POST", "/api/v1/auths/admin/config/ldap/server", {"host": "127.0.0.1"}),
    "its own documentation": ("GET", "/docs", None),
    "the list of its paths": ("GET", "/openapi.json", None),
}
# Spellings of a path that is refused, and one that Open WebUI would take for another path than nginx does.
SPELLINGS = (
    *("//api/v1/functions/create", "/api/v1/%66unctions/create", "/api/v1/chats/../functions/create"),
    *("/api/v1/chats/%2e%2e/functions/create", "/openai/%2e%2e/api/v1/functions/create"),
)
HOLLOW = "/openai/x/../../api/v1/chats/new"


@pytest.fixture(scope="module")
def admin(served: Served) -> httpx.Client:
    """The page's admin, who signs in once: the page counts sign-ins."""
    return served.webui()


@pytest.mark.parametrize("case", REFUSED)
def test_the_admin_is_refused(admin: httpx.Client, case: str) -> None:
    method, path, body = REFUSED[case]
    answer = admin.request(method, path, json=body)
    assert answer.status_code == 403, answer.text
    assert "serve.page_plugins" in answer.json()["detail"]


def status(served: Served, path: str, token: str) -> int:
    """Post to exactly this path: httpx would tidy it up."""
    connection = http.client.HTTPConnection("127.0.0.1", int(served.variables["WEBUI_PORT"]), timeout=60)
    connection.request("POST", path, "{}", {"Authorization": token, "Content-Type": "application/json"})
    return connection.getresponse().status


def test_no_spelling_of_a_path_gets_past_nginx(served: Served, admin: httpx.Client) -> None:
    token = admin.headers["Authorization"]
    assert {path: status(served, path, token) for path in SPELLINGS} == dict.fromkeys(SPELLINGS, 403)
    # Judged as /api/v1/chats/new, and passed on as that: the answer is about the chat that the body lacks.
    assert status(served, HOLLOW, token) == 422


@pytest.mark.parametrize("path", ["/api/v1/functions/create", "/api/v1/tools/create"])
def test_the_page_itself_takes_no_code_either(served: Served, admin: httpx.Client, path: str) -> None:
    """Its own setting holds where nginx passes everything."""
    socket = str(served.folder / ".serve" / "open-webui.sock")
    with httpx.Client(transport=httpx.HTTPTransport(uds=socket), base_url="http://page", timeout=60) as bare:
        bare.headers["Authorization"] = admin.headers["Authorization"]
        assert bare.post(path, json=META | {"content": PIPE}).is_error
    assert admin.get("/api/v1/functions/").json() == admin.get("/api/v1/tools/").json() == []


def test_a_profile_image_at_an_address_is_not_passed_on(admin: httpx.Client) -> None:
    """Else the browser of each user who sees the picture asks that address."""
    user = admin.get("/api/v1/auths/").raise_for_status().json()
    profile = {"name": user["name"], "profile_image_url": "http://192.0.2.1/x.png"}
    admin.post("/api/v1/auths/update/profile", json=profile)
    try:
        answer = admin.get(f"/api/v1/users/{user['id']}/profile/image", follow_redirects=False)
        assert "192.0.2.1" not in answer.headers.get("Location", "")
    finally:
        admin.post(
            "/api/v1/auths/update/profile", json=profile | {"profile_image_url": "/user.png"}
        ).raise_for_status()


def test_users_see_no_path_of_the_model(served: Served, admin: httpx.Client) -> None:
    shown = admin.get("/api/models").raise_for_status().text
    shown += httpx.get(f"{served.address}/v1/models", headers={"Authorization": f"Bearer {served.key()}"}).text
    assert served.model() in shown
    assert "/models" not in shown
    assert str(served.folder) not in shown


def test_a_foreign_name_is_refused(served: Served) -> None:
    """As a page of another site calls it after DNS rebinding."""
    address = f"http://127.0.0.1:{served.variables['WEBUI_PORT']}/health"
    statuses = {
        name: httpx.get(address, headers={"Host": name}).status_code
        for name in ("127.0.0.1", "localhost:3000", "evil.example", "127.0.0.1.evil.example")
    }
    assert list(statuses.values()) == [200, 200, 421, 421]


def test_other_users_of_this_machine_read_no_log_and_reach_no_socket(served: Served) -> None:
    logs = list((served.folder / "logs" / "serve").glob("*.log"))
    assert len(logs) == 4
    assert {oct(path.stat().st_mode & 0o777) for path in logs} == {"0o640"}
    if os.geteuid():
        missing("root")
    sockets = list((served.folder / ".serve").glob("*.sock"))
    assert len(sockets) == 3
    for parent in served.folder.parents[:-2]:
        parent.chmod(parent.stat().st_mode | 0o011)  # pytest closes its folders, so that they would be the reason
    code = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])"
    served.folder.chmod(0o755)
    for path in sockets:
        line = ["/usr/bin/python3", "-c", code, str(path)]
        assert subprocess.run(line, capture_output=True).returncode == 0
        done = subprocess.run(line, capture_output=True, text=True, user=65534, group=65534, extra_groups=[])
        assert "PermissionError" in done.stderr, path


def test_each_program_knows_its_own_secrets_and_nothing_of_the_shell(served: Served) -> None:
    """tests/support/serving.py serves from a shell with keys of other services."""
    known = {"bin/vllm": {"API_KEY"}, "webui_server.py": {"API_KEY", "ADMIN_PASSWORD", "WEBUI_SECRET_KEY"}}
    every = [served.supervisor(), *below(served.supervisor())]
    mains = {pid: name for pid in every for name in known if any(one.endswith(name) for one in words(pid)[1:3])}
    assert sorted(mains.values()) == sorted(known)
    owner = {child: name for pid, name in mains.items() for child in (pid, *below(pid))}
    for pid in every:
        variables = Path(f"/proc/{pid}/environ").read_bytes().decode()
        assert "of the shell" not in variables, words(pid)
        held = {
            secret for secret in ("API_KEY", "ADMIN_PASSWORD", "WEBUI_SECRET_KEY") if served.key(secret) in variables
        }
        assert held <= (known[owner[pid]] if pid in owner else set()), words(pid)
        if pid in mains:
            assert held == known[mains[pid]], words(pid)
