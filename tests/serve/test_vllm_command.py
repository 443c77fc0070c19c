"""The command line and the environment of vLLM."""

import json
from pathlib import Path

import pytest
from stage_runs import ROOT

from stages.common.params import read_yaml
from tools.serve.params import ServeParams, load_serve_params
from tools.serve.vllm_command import leave_a_core, vllm_arguments, vllm_variables

PARAMS = load_serve_params(ROOT / "params.yaml")[0]


def test_the_section_has_exactly_the_keys_of_its_class() -> None:
    assert set(read_yaml(ROOT / "params.yaml")["serve"]) == set(ServeParams.model_fields)


def test_settings_go_to_vllm_unchanged() -> None:
    settings = {
        "max_model_len": 64,
        "enforce_eager": False,
        "seed": None,
        "override_generation_config": {"a": 1},
    }
    given = vllm_arguments(PARAMS.model_copy(update={"vllm": settings}), "name", {})
    assert given[:4] == ["--served-model-name", "name", "--load-format", "safetensors"]
    assert given[7:] == ["--max-model-len=64", "--no-enforce-eager", '--override-generation-config={"a": 1}']


@pytest.mark.parametrize(("ranks", "accepted"), [((1,), "1"), ((4,), "8"), ((4, 65), "128")])
def test_adapters_have_their_names_and_the_smallest_accepted_rank(
    tmp_path: Path, ranks: tuple[int, ...], accepted: str
) -> None:
    adapters = {f"adapter-{rank}": tmp_path / str(rank) for rank in ranks}
    for rank, folder in zip(ranks, adapters.values(), strict=True):
        folder.mkdir()
        (folder / "adapter_config.json").write_text(json.dumps({"r": rank}), encoding="utf-8")
    given = vllm_arguments(PARAMS.model_copy(update={"vllm": {}}), "name", adapters, "/adapters/")
    modules = [f"{name}=/adapters/{name}" for name in adapters]
    assert given[7:] == ["--enable-lora", "--max-lora-rank", accepted, "--lora-modules", *modules]


def test_vllm_gets_safe_variables_and_none_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_SERVER_DEV_MODE", "1")
    monkeypatch.setenv("VLLM_CPU_INT4_W4A8", "1")
    monkeypatch.setenv("PYTHONPATH", "here")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    found = vllm_variables(PARAMS, {"API_KEY": "key", "WEBUI_SECRET_KEY": "secret"})
    assert found["VLLM_CPU_INT4_W4A8"] == "0"
    assert (found["VLLM_API_KEY"], found["HF_HUB_OFFLINE"]) == ("key", "1")
    assert found["CUDA_VISIBLE_DEVICES"] == "1"
    assert found["PYTHONPATH"] == str(ROOT / "docker" / "middleware")
    assert not {"VLLM_SERVER_DEV_MODE", "AWS_SECRET_ACCESS_KEY"} & found.keys()


@pytest.mark.parametrize(("cores", "threads"), [(1, "1"), (2, "1"), (3, None), (64, None)])
def test_a_machine_of_few_cores_keeps_one_for_the_api(
    cores: int, threads: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    found = leave_a_core(PARAMS, cores)
    assert found == ({"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "OMP_NUM_THREADS": threads} if threads else {})
    assert not leave_a_core(PARAMS.model_copy(update={"vllm": {"tensor_parallel_size": 2}}), cores)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert leave_a_core(PARAMS, 2)["OMP_NUM_THREADS"] == "2"
