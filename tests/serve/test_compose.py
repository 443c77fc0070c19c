"""What `make serve RUNTIME=docker` adds to docker/compose.yaml: an overlay and variables; tests/docker runs it."""

import re
from pathlib import Path

import pytest
from stage_runs import DEFAULTS, ROOT

from stages.common.params import read_yaml
from tools.common.endpoints import Endpoint
from tools.serve.compose import overlay, variables
from tools.serve.params import load_serve_params

PARAMS = load_serve_params(DEFAULTS)[0]
SETTINGS = {"BIND": "127.0.0.1", "WEBUI_SECRET_KEY": "secret"}
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
    found = variables(PARAMS, SETTINGS, [ONE])
    assert (found["MODEL_FOLDER"], found["SERVED_NAME"]) == ("/models/awq", "awq")
    assert found["VLLM_ARGS"].startswith("--served-model-name awq --load-format safetensors ")
    assert (found["PAGE_HOSTS"], found["PAGE_OPEN"]) == ("127.0.0.1 localhost", "chat")


def test_only_nginx_has_ports_and_the_page_has_no_network_but_inside() -> None:
    services = read_yaml(ROOT / "docker" / "compose.yaml")["services"]
    assert services["open-webui"]["networks"] == ["inside"]
    assert services["open-webui"]["env_file"] == "webui.env"
    published = {name for name, service in services.items() if "ports" in service}
    assert published == {"proxy", "page", "tensorboard", "dozzle"}
    known = re.search(r"envsubst '([^']*)'", services["page"]["command"][2])
    assert known
    template = (ROOT / "docker" / "page.conf").read_text(encoding="utf-8")
    assert set(known[1].replace("$$", "").split()) == set(re.findall(r"\$\{(\w+)\}", template))


def test_plugins_open_every_path_and_give_the_page_a_network() -> None:
    opened = PARAMS.model_copy(update={"page_plugins": True})
    found = overlay(opened, [ONE], "vllm-cpu")
    assert found["networks"] == {"outside": {}}
    assert found["services"]["open-webui"]["networks"] == ["inside", "outside"]
    assert found["services"]["open-webui"]["environment"]["ENABLE_PLUGINS"] == "true"
    assert variables(opened, SETTINGS, [ONE])["PAGE_OPEN"] == "all"


def test_clients_see_no_folder_of_this_machine(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"r": 8}', encoding="utf-8")
    one = ONE._replace(adapters={"lora": str(tmp_path)})
    assert overlay(PARAMS, [one], "vllm")["services"]["vllm"]["volumes"] == [f"{tmp_path}:/adapters/lora:ro"]
    arguments = variables(PARAMS, SETTINGS, [one])["VLLM_ARGS"]
    assert "--lora-modules lora=/adapters/lora" in arguments
    assert str(tmp_path) not in arguments


def test_an_adapter_is_what_clients_ask_for_and_each_server_has_its_own(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"r": 8}', encoding="utf-8")
    adapter = ONE._replace(name="adapter", folder="/models/base", adapters={"adapter": str(tmp_path)}, base="base")
    found = variables(PARAMS, SETTINGS, [adapter])
    assert (found["MODEL_FOLDER"], found["SERVED_NAME"]) == ("/models/base", "adapter")
    assert found["VLLM_ARGS"].startswith("--served-model-name base ")
    services = overlay(PARAMS, [adapter, TWO], "vllm")["services"]
    assert services["vllm"]["volumes"] == [f"{tmp_path}:/adapters/adapter:ro"]
    assert not [volume for volume in services["vllm-2"]["volumes"] if "/adapters/" in volume]
