"""A server from outside: names, keys, paths. Needs the environments of serving; all tests share one server."""

import json
import re

import httpx
import pytest
from processes import below, words
from serving import ROOT, Served

pytestmark = pytest.mark.slow
OPEN = {"/health"}
KEYED = {"/v1/models", "/v1/chat/completions", "/v1/completions"}


def test_smoke_passes_and_leaves_its_figures(served: Served) -> None:
    done = served.tool("smoke", "--rows", "16")
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads((served.folder / "metrics" / "serve.json").read_text(encoding="utf-8"))
    assert figures["name"] == served.model()
    assert len(figures["passed"]) == 14
    assert all(figures["passed"].values())
    assert figures["tokens_per_second"] > 0 < figures["alone_first_token_seconds_median"]


def test_smoke_fails_when_another_model_answers_to_the_name(served: Served) -> None:
    """Its answers then differ from those of transformers on the folder of that name."""
    state = served.folder / ".serve" / "serving.json"
    kept = state.read_text(encoding="utf-8")
    changed = json.loads(kept)
    changed["endpoints"][0] |= {"folder": str(served.folder / "models" / "base"), "kind": "base"}
    state.write_text(json.dumps(changed), encoding="utf-8")
    try:
        done = served.tool("smoke", "--rows", "16")
    finally:
        state.write_text(kept, encoding="utf-8")
    assert done.returncode == 1
    failed = {line[8:].split("  ")[0] for line in done.stdout.splitlines() if line.startswith("FAILED")}
    assert failed == {"exact match", "greedy answers", "log-probabilities"}


def test_status_prints_secrets_only_on_request(served: Served) -> None:
    plain, full = served.tool("status"), served.tool("status", "--secrets")
    assert plain.returncode == full.returncode == 0
    assert plain.stdout.count("healthy") == 2
    for secret in ("API_KEY", "ADMIN_PASSWORD"):
        assert served.key(secret) not in plain.stdout
        assert served.key(secret) in full.stdout
    logs = served.tool("logs", "--no-follow", "--lines", "9999").stdout
    assert "Application startup complete" in logs
    for secret in ("API_KEY", "ADMIN_PASSWORD", "WEBUI_SECRET_KEY"):
        assert served.key(secret) not in logs


def test_no_secret_is_on_a_command_line(served: Served) -> None:
    lines = ["\0".join(words(pid)) for pid in below(served.supervisor())]
    assert len(lines) > 4
    for secret in ("API_KEY", "ADMIN_PASSWORD", "WEBUI_SECRET_KEY"):
        assert not [line for line in lines if served.key(secret) in line]


def test_only_health_answers_without_a_key(served: Served) -> None:
    routes = set(re.findall(r"Route: (\S+), Methods: (\w+)", served.log("lockstep-*.log")))
    assert len(routes) > 20
    statuses = {
        (route, method): httpx.request(method, served.address + route.format(response_id="x"), timeout=60).status_code
        for route, method in routes
    }
    assert {route for (route, _), status in statuses.items() if status == 200} == OPEN
    assert {route for (route, _), status in statuses.items() if status == 401} == KEYED
    assert {route for (route, _), status in statuses.items() if status == 404} == (
        {route for route, _ in routes} - OPEN - KEYED
    )


def test_the_docs_list_what_vllm_itself_answers_without_a_key(served: Served) -> None:
    """The reason for nginx; a new version of vLLM that answers more shows here."""
    routes = set(re.findall(r"Route: (\S+), Methods: (\w+)", served.log("lockstep-*.log")))
    (path,) = (served.folder / ".serve").glob("*-1.sock")
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://vllm", timeout=60) as client:
        bare = {
            route
            for route, method in routes
            if client.request(method, route.format(response_id="x"), json={}).status_code != 401
        }
    text = (ROOT / "docs" / "serve.md").read_text(encoding="utf-8")
    listed = re.search(r"without a key vLLM itself answers ([^.]*)\.", text.replace("\n", " "))
    assert listed
    assert bare == set(re.findall(r"`(/[^`]+)`", listed[1]))


def test_an_answer_ends_at_the_limit_of_the_settings_whatever_the_client_asks(served: Served) -> None:
    body = {"model": served.model(), "messages": [{"role": "user", "content": "Hello"}], "ignore_eos": True}
    headers = {"Authorization": f"Bearer {served.key()}"}
    for wish in ({}, {"max_tokens": 1500}):
        answer = httpx.post(f"{served.address}/v1/chat/completions", json=body | wish, headers=headers, timeout=120)
        assert answer.raise_for_status().json()["usage"]["completion_tokens"] == 512


def test_the_chat_page_wants_a_password_and_has_no_sign_up(served: Served) -> None:
    client = served.webui()
    wrong = {"email": served.key("ADMIN_EMAIL"), "password": "wrong"}
    assert client.post("/api/v1/auths/signin", json=wrong).status_code == 400
    newcomer = {"name": "x", "email": "x@localhost", "password": "x" * 12}
    bare = httpx.Client(base_url=client.base_url, timeout=60)
    assert bare.post("/api/v1/auths/signup", json=newcomer).status_code == 403
    for path in ("/api/models", "/api/v1/chats/", "/openai/models"):
        assert client.get(path).status_code == 200, path
        assert bare.get(path).status_code in (401, 403), path


def test_a_second_server_is_refused(served: Served) -> None:
    done = served.tool("serve")
    assert done.returncode == 1
    assert done.stderr == "Error: a model is already served from this checkout; run `make stop` first\n"
