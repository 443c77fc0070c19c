"""The environment of Open WebUI, and what its version takes for an address."""

import ast
import json
import re
from pathlib import Path

import pytest
from needs import missing
from stage_runs import ROOT

from stages.common.params import read_yaml
from stages.eval.server_variables import NOWHERE
from tools.serve.webui import SETTINGS, host_names, webui_variables

KEYS = {
    **{"API_KEY": "k", "ADMIN_EMAIL": "e", "ADMIN_PASSWORD": "p", "WEBUI_SECRET_KEY": "s"},
    **{"WEBUI_PORT": "3000", "BIND": "127.0.0.1"},
}
ADDRESS = re.compile(r"(URLS?|URIS?|HOSTS?|ENDPOINTS?|ORIGINS?|CONNECTIONS)$")
# No addresses of other machines: files in DATA_DIR, sizes of pools, a switch.
OTHERS = {
    *("DATABASE_URL", "MILVUS_URI", "OPENGAUSS_DB_URL", "PGVECTOR_DB_URL"),
    *("AIOHTTP_POOL_CONNECTIONS", "AIOHTTP_POOL_CONNECTIONS_PER_HOST", "S3_USE_ACCELERATE_ENDPOINT"),
}


def variables(**more: str) -> dict[str, str]:
    return webui_variables(KEYS | more, ["a", "b"], ["http://x/v1", "http://y/v1"], calls_tools=False, plugins=False)


def settings_that_are_addresses(package: Path) -> dict[str, str]:
    """Find the environment variables that a package reads as addresses, each with the code of its default."""
    found = {}
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not node.args:
                continue
            name, default = ast.unparse(node.args[0]).strip("'"), " ".join(map(ast.unparse, node.args[1:]))
            if ast.unparse(node.func) in ("os.getenv", "os.environ.get") and (
                ADDRESS.search(name) or re.search(r"\bhttps?://", default)
            ):
                found[name] = default
    return found


@pytest.mark.slow
def test_no_address_is_left_to_a_default() -> None:
    """A version of Open WebUI that adds a setting shows here: add it to docker/webui.env."""
    installed = list((ROOT / ".serve" / "webui").glob("lib/python*/site-packages/open_webui"))
    if not installed:
        missing("serving")
    known = settings_that_are_addresses(installed[0])
    assert len(known) > 80
    assert known["AUDIO_REALTIME_OPENAI_API_BASE_URL"] == "'https://api.openai.com/v1'"
    compose = read_yaml(ROOT / "docker" / "compose.yaml")["services"]["open-webui"]["environment"]
    constant = {line.partition("=")[0] for line in SETTINGS.read_text(encoding="utf-8").splitlines()}
    for settings in (variables().keys(), constant | compose.keys()):
        assert sorted(known.keys() - OTHERS - settings) == []
    far = {name: value for name, value in variables().items() if re.search(r"://(?!127\.0\.0\.1|localhost)", value)}
    assert far == {"OPENAI_API_BASE_URLS": "http://x/v1;http://y/v1"}
    assert {variables()[name] for name, default in known.items() if "://" in default} == {NOWHERE}


@pytest.mark.parametrize("calls_tools", [False, True])
def test_the_page_offers_tools_only_where_vllm_knows_how_to_call_them(calls_tools: bool) -> None:
    found = webui_variables(KEYS, ["a", "b"], ["http://x/v1", "http://y/v1"], calls_tools, plugins=False)
    assert json.loads(found["DEFAULT_MODEL_METADATA"]) == {"capabilities": {"builtin_tools": calls_tools}}
    assert (found["DEFAULT_MODELS"], found["OPENAI_API_KEYS"]) == ("a", "k;k")
    assert found["ENABLE_SIGNUP"] == "false"


def test_a_public_address_is_added_to_those_of_this_machine() -> None:
    ours = "http://127.0.0.1:3000;http://localhost:3000"
    assert variables()["CORS_ALLOW_ORIGIN"] == ours
    found = variables(WEBUI_URL="https://chat.example")
    assert (found["CORS_ALLOW_ORIGIN"], found["WEBUI_URL"]) == (
        f"{ours};https://chat.example",
        "https://chat.example",
    )


def test_cookies_are_sent_only_encrypted_where_users_come_by_https() -> None:
    assert variables()["WEBUI_SESSION_COOKIE_SAME_SITE"] == "strict"
    assert variables()["WEBUI_SESSION_COOKIE_SECURE"] == "false"
    assert variables(WEBUI_URL="http://chat.example")["WEBUI_SESSION_COOKIE_SECURE"] == "false"
    assert variables(WEBUI_URL="https://chat.example")["WEBUI_SESSION_COOKIE_SECURE"] == "true"


def test_browsers_call_the_page_by_its_own_names() -> None:
    assert host_names(KEYS) == "127.0.0.1 localhost"
    more = {"BIND": "0.0.0.0", "WEBUI_URL": "https://chat.example/x", "WEBUI_HOSTS": "chat, 10.0.0.1"}
    assert host_names(KEYS | more) == "127.0.0.1 localhost chat.example chat 10.0.0.1"
    assert host_names(KEYS | {"BIND": "10.0.0.1"}) == "127.0.0.1 localhost 10.0.0.1"


def test_plugins_are_off_unless_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "of the shell")
    assert variables()["ENABLE_PLUGINS"] == "false"
    assert variables()["HTTPS_PROXY"] == NOWHERE
    found = webui_variables(KEYS, ["a"], ["http://x/v1"], calls_tools=False, plugins=True)
    assert found["ENABLE_PLUGINS"] == "true"
    assert "HTTPS_PROXY" not in found
    assert "OPENAI_API_KEY" not in found
