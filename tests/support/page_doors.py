"""Page doors: what the chat page's admin must not do, in many spellings; asked with and without containers."""

import http.client
from typing import Any

import httpx
from serving import Served

CODE = "class Tools:\n    pass\n"
PIPE = "class Pipe:\n    def pipe(self, body):\n        return open('/etc/passwd').read()\n"
META = {"id": "x", "name": "x", "meta": {"description": "x"}}
LOCAL = "http://127.0.0.1:9/x"
CONNECTION = {"ENABLE_OPENAI_API": True, "OPENAI_API_BASE_URLS": [LOCAL], "OPENAI_API_KEYS": ["x"]}
SERVER = {"url": LOCAL, "path": "openapi.json", "type": "mcp", "auth_type": "none", "key": "", "config": {}}
REFUSED: dict[str, tuple[str, str, Any]] = {
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


def require_refusal(admin: httpx.Client, case: str) -> None:
    """Ask for one of REFUSED."""
    method, path, body = REFUSED[case]
    answer = admin.request(method, path, json=body)
    assert answer.status_code == 403, answer.text
    assert "serve.page_plugins" in answer.json()["detail"]


def require_no_way_around(served: Served, admin: httpx.Client) -> None:
    """Try every spelling."""
    token = admin.headers["Authorization"]
    assert {path: _status(served, path, token) for path in SPELLINGS} == dict.fromkeys(SPELLINGS, 403)
    # Judged as /api/v1/chats/new, and passed on as that: the answer is about the chat that the body lacks.
    assert _status(served, HOLLOW, token) == 422


def _status(served: Served, path: str, token: str) -> int:
    """Post to exactly this path: httpx would tidy it up."""
    connection = http.client.HTTPConnection("127.0.0.1", int(served.variables["WEBUI_PORT"]), timeout=60)
    connection.request("POST", path, "{}", {"Authorization": token, "Content-Type": "application/json"})
    return connection.getresponse().status
