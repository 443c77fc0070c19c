"""What `make serve RUNTIME=docker` adds to docker/compose.yaml: an overlay and variables; tests/docker runs it."""

import pytest
from stage_runs import ROOT

from tools.common.endpoints import Endpoint
from tools.serve.compose import overlay, variables
from tools.serve.params import load_serve_params

PARAMS = load_serve_params(ROOT / "params.yaml")[0]
ONE = Endpoint("awq", "http://127.0.0.1:8000/v1", "/models/awq", "awq", None, {})
TWO = Endpoint("merged", "http://127.0.0.1:8001/v1", "/models/merged", "merged", None, {})


def test_a_further_model_gets_a_server_and_a_proxy_and_the_page_shows_both() -> None:
    services = overlay(PARAMS.model_copy(update={"replicas": 2}), [ONE, TWO], "vllm-cpu")["services"]
    assert services["vllm-cpu"] == {"scale": 2, "volumes": []}
    assert services["vllm-cpu-2"]["volumes"] == ["/models/merged:/model:ro", "./middleware:/middleware:ro"]
    assert services["vllm-cpu-2"]["networks"] == {"inside": {"aliases": ["model-2"]}}
    assert services["proxy-2"]["ports"] == ["${BIND:-127.0.0.1}:8001:8000"]
    assert services["proxy-2"]["environment"]["SERVERS"] == "server model-2:8000;"
    assert services["open-webui"]["environment"] == {
        "OPENAI_API_BASE_URLS": "http://proxy:8000/v1;http://proxy-2:8000/v1",
        "OPENAI_API_KEYS": "${API_KEY};${API_KEY}",
    }


def test_the_first_model_is_that_of_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(overlay(PARAMS, [ONE], "vllm")["services"]) == {"vllm", "open-webui"}
    found = variables(PARAMS, ONE, "secret")
    assert (found["MODEL_FOLDER"], found["SERVED_NAME"]) == ("/models/awq", "awq")
    assert found["VLLM_ARGS"].startswith("--served-model-name awq --load-format safetensors ")
