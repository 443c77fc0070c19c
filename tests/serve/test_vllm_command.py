"""The command line and the environment of vLLM."""

import json
from pathlib import Path

import click
import pytest
from stage_runs import DEFAULTS, ROOT

from stages.common.params import read_yaml
from tools.serve.params import ServeParams, load_serve_params
from tools.serve.vllm_command import leave_a_core, require_servable, vllm_arguments, vllm_variables

PARAMS = load_serve_params(DEFAULTS)[0]


def test_the_section_has_exactly_the_keys_of_its_class() -> None:
    assert set(read_yaml(DEFAULTS)["serve"]) == set(ServeParams.model_fields)


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


def test_log_probabilities_of_a_prompt_are_allowed_without_adapters_only() -> None:
    settings = {"API_KEY": "key", "WEBUI_SECRET_KEY": "secret"}
    for adapters in (True, False):
        limits = json.loads(vllm_variables(PARAMS, settings, adapters)["REQUEST_LIMITS"])
        assert limits["prompt_logprobs"] is not adapters


PLAIN = {"r": 8, "bias": "none", "modules_to_save": None, "use_dora": False}


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"bias": "lora_only", "lora_bias": True}, "lora_bias, bias"),
        ({"rank_pattern": {"q_proj": 513}}, "rank 513, above 512"),
    ],
)
def test_an_adapter_that_vllm_does_not_apply_is_refused_before_a_start(
    tmp_path: Path, config: dict[str, object], problem: str
) -> None:
    file = tmp_path / "adapter_config.json"
    file.write_text(json.dumps(PLAIN | {"rank_pattern": {"q_proj": 512}}), encoding="utf-8")
    require_servable(tmp_path)
    file.write_text(json.dumps(PLAIN | config), encoding="utf-8")
    with pytest.raises(click.ClickException) as raised:
        require_servable(tmp_path)
    assert raised.value.message == (
        f"models/adapter: vLLM does not apply {problem} unmerged; serve what it is merged into: "
        "`make serve MODEL=merged`, or train without it"
    )


def test_the_model_of_a_full_fine_tuning_is_no_adapter(tmp_path: Path) -> None:
    with pytest.raises(click.ClickException, match=r"a whole model, as `train\.method: full` leaves it"):
        require_servable(tmp_path)


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
