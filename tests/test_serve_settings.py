"""What vLLM, the door and the page are told: settings, secrets, and what is kept from them."""

import json
import shutil
import stat
from pathlib import Path

import pytest
from conftest import ROOT

from stages.common import settings
from tools.serving import door, engine, keys, page


def test_the_section_has_exactly_the_keys_of_its_class() -> None:
    assert set(settings.read_yaml(ROOT / "params.yaml")["serve"]) == set(engine.ServeParams.model_fields)
    engine.load(ROOT / "params.yaml")


@pytest.mark.parametrize(
    ("key", "value"),
    [("trust_remote_code", "true"), ("tool-parser-plugin", "x.py"), ("load_format", "pt"), ("host", "all")],
)
def test_what_would_serve_other_bytes_or_run_code_is_refused(tmp_path: Path, key: str, value: str) -> None:
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    (tmp_path / "params.yaml").write_text(f"{text}    {key}: {value}\n", encoding="utf-8")
    wanted = f"serve.vllm.{key.replace('-', '_')}: `make serve` sets it, or it is unsafe; delete the line"
    with pytest.raises(Exception, match=wanted):
        engine.load(tmp_path / "params.yaml")


def test_settings_go_to_vllm_unchanged() -> None:
    params = engine.load(ROOT / "params.yaml").model_copy(
        update={
            "vllm": {
                "max_model_len": 64,
                "enforce_eager": False,
                "seed": None,
                "override_generation_config": {"a": 1},
            }
        }
    )
    given = engine.arguments(params, "name", {})
    assert given[:4] == ["--served-model-name", "name", "--load-format", "safetensors"]
    assert given[5:] == ["--max-model-len", "64", "--no-enforce-eager", "--override-generation-config", '{"a": 1}']


def test_vllm_gets_its_traps_closed_and_nothing_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_SERVER_DEV_MODE", "1")
    monkeypatch.setenv("VLLM_CPU_INT4_W4A8", "1")
    monkeypatch.setenv("PYTHONPATH", "here")
    found = engine.variables(engine.load(ROOT / "params.yaml"), "key")
    assert found["VLLM_CPU_INT4_W4A8"] == "0"
    assert (found["VLLM_API_KEY"], found["HF_HUB_OFFLINE"]) == ("key", "1")
    assert not {"VLLM_SERVER_DEV_MODE", "PYTHONPATH"} & found.keys()


@pytest.mark.parametrize(("cores", "threads"), [(1, "1"), (2, "1"), (3, None), (64, None)])
def test_a_machine_of_few_cores_keeps_one_for_the_api(
    cores: int, threads: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    params = engine.load(ROOT / "params.yaml")
    found = engine.spared(params, cores)
    assert found == ({"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "OMP_NUM_THREADS": threads} if threads else {})
    assert not engine.spared(params.model_copy(update={"vllm": {"tensor_parallel_size": 2}}), cores)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert engine.spared(params, 2)["OMP_NUM_THREADS"] == "2"


@pytest.mark.parametrize("tools", [False, True])
def test_the_page_calls_tools_only_where_vllm_knows_how(tools: bool) -> None:
    known = {"API_KEY": "k", "ADMIN_EMAIL": "e", "ADMIN_PASSWORD": "p", "WEBUI_SECRET_KEY": "s", "WEBUI_PORT": "3000"}
    found = page.variables(known, ["a", "b"], ["http://x/v1", "http://y/v1"], tools)
    assert json.loads(found["DEFAULT_MODEL_METADATA"]) == {"capabilities": {"builtin_tools": tools}}
    assert (found["DEFAULT_MODELS"], found["OPENAI_API_KEYS"]) == ("a", "k;k")
    assert found["ENABLE_SIGNUP"] == "false"


def test_secrets_are_made_once_and_for_the_owner_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "docker", "docker")
    first = keys.load()
    assert stat.S_IMODE(keys.PATH.stat().st_mode) == 0o600
    assert all(len(first[name]) >= 32 for name in keys.SECRETS if name != "ADMIN_EMAIL")
    assert len({first[name] for name in keys.SECRETS}) == len(keys.SECRETS)
    keys.PATH.chmod(0o644)
    monkeypatch.setenv("API_KEY", "another program's")
    monkeypatch.setenv("API_PORT", "8123")
    assert keys.load() == first | {"API_PORT": "8123"}
    assert stat.S_IMODE(keys.PATH.stat().st_mode) == 0o600


def test_the_door_is_filled_in_as_the_nginx_image_does_it() -> None:
    text = door.filled(door.Way("awq", "127.0.0.1:8000", ["unix:/a", "unix:/b"]))
    assert "${" not in text
    assert "upstream awq {" in text
    assert "server unix:/a; server unix:/b;" in text
    assert "listen 127.0.0.1:8000;" in text
