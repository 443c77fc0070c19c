"""Base + adapter, served unmerged: the same checks as for a merged model. Needs the environments of serving."""

import json
from collections.abc import Iterator

import httpx
import pytest
from serving import Served, serving

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def unmerged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("unmerged"), "--model", "adapter") as checkout:
        yield checkout


def test_smoke_compares_it_with_transformers_and_with_the_scores_of_merged(unmerged: Served) -> None:
    done = unmerged.tool("smoke", "--rows", "16")
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads((unmerged.folder / "metrics" / "serve.json").read_text(encoding="utf-8"))
    assert figures["name"] == unmerged.model()
    assert len(figures["passed"]) == 14


def test_clients_find_the_adapter_first_and_its_base_beside_it(unmerged: Served) -> None:
    (one,) = unmerged.endpoints()
    assert one["kind"] == "adapter"
    assert one["name"].startswith("lockstep-adapter-")
    assert one["base"].startswith("lockstep-base-")
    assert unmerged.tool("status").stdout.count("healthy") == 3
    client = unmerged.webui()
    assert {model["id"] for model in client.get("/api/models").json()["data"]} == {one["name"], one["base"]}
    assert client.get("/api/config").json()["default_models"] == one["name"]


@pytest.mark.parametrize("wish", [{"prompt_logprobs": 0}, {"echo": True, "logprobs": 1}])
def test_a_request_that_would_end_vllm_is_refused(unmerged: Served, wish: dict[str, object]) -> None:
    """With adapters vLLM 0.32 fails at the log-probabilities of a prompt, and its engine ends."""
    headers = {"Authorization": f"Bearer {unmerged.key()}"}
    body = {"model": unmerged.model(), "prompt": "What comes after Thursday?", "max_tokens": 1}
    address = f"{unmerged.address}/v1/completions"
    answer = httpx.post(address, json=body | wish, headers=headers, timeout=120)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"].startswith("log-probabilities of a prompt are not computed here")
    assert httpx.post(address, json=body, headers=headers, timeout=120).status_code == 200


def test_the_base_answers_as_if_there_were_no_adapter(unmerged: Served) -> None:
    """So the two names differ in what they do."""
    (one,) = unmerged.endpoints()
    headers = {"Authorization": f"Bearer {unmerged.key()}"}

    def answer(name: str) -> str:
        body = {
            "model": name,
            "messages": [{"role": "user", "content": "What comes after Thursday?"}],
            "temperature": 0,
            "max_tokens": 20,
        }
        found = httpx.post(f"{unmerged.address}/v1/chat/completions", json=body, headers=headers, timeout=120)
        return found.raise_for_status().json()["choices"][0]["message"]["content"]

    assert answer(one["name"]).strip() == "Friday"
    assert answer(one["base"]).strip() != "Friday"
