"""The environment of Open WebUI."""

import json

import pytest

from tools.serve.webui import webui_variables

SETTINGS = {"API_KEY": "k", "ADMIN_EMAIL": "e", "ADMIN_PASSWORD": "p", "WEBUI_SECRET_KEY": "s", "WEBUI_PORT": "3000"}


@pytest.mark.parametrize("calls_tools", [False, True])
def test_the_page_offers_tools_only_where_vllm_knows_how_to_call_them(calls_tools: bool) -> None:
    found = webui_variables(SETTINGS, ["a", "b"], ["http://x/v1", "http://y/v1"], calls_tools)
    assert json.loads(found["DEFAULT_MODEL_METADATA"]) == {"capabilities": {"builtin_tools": calls_tools}}
    assert (found["DEFAULT_MODELS"], found["OPENAI_API_KEYS"]) == ("a", "k;k")
    assert found["ENABLE_SIGNUP"] == "false"


def test_a_public_address_is_added_to_those_of_this_machine() -> None:
    ours = "http://127.0.0.1:3000;http://localhost:3000"
    assert webui_variables(SETTINGS, ["a"], ["http://x/v1"], False)["CORS_ALLOW_ORIGIN"] == ours
    found = webui_variables(SETTINGS | {"WEBUI_URL": "https://chat.example"}, ["a"], ["http://x/v1"], False)
    assert (found["CORS_ALLOW_ORIGIN"], found["WEBUI_URL"]) == (
        f"{ours};https://chat.example",
        "https://chat.example",
    )
