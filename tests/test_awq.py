"""AWQ: exactly the expected layers are quantised, the result loads and answers, and the words stay the model's."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest

from stages import awq as stage
from stages.common import files, tokens

if TYPE_CHECKING:
    from torch import Tensor

WORDS = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def tensors(folder: Path) -> "dict[str, Tensor]":
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def scores(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "metrics" / "awq.json").read_text(encoding="utf-8"))


def packed(folder: Path) -> set[str]:
    return {name.removesuffix(".weight_packed") for name in tensors(folder) if name.endswith(".weight_packed")}


def linear_layers(folder: Path) -> set[str]:
    return {name.removesuffix(".weight") for name in tensors(folder) if "_proj.weight" in name}


@pytest.fixture
def quantise(
    params: Callable[..., Path], succeed: Callable[..., str], merged: Path, prepared: Path
) -> Callable[..., Path]:
    """Quantise the session's merged model with other params, and give the folder of the run."""

    def quantise(changes: dict[str, Any]) -> Path:
        folder = params(changes).parent
        succeed(stage.main, "--model", merged, "--calibration", prepared / "calibration.arrow")
        return folder

    return quantise


@pytest.fixture
def refuse(params: Callable[..., Path], fail: Callable[..., str], merged: Path, prepared: Path) -> Callable[..., str]:
    """Quantise with params that cannot work, and give the message; nothing may be left."""

    def refuse(changes: dict[str, Any]) -> str:
        folder = params(changes).parent
        message = fail(stage.main, "--model", merged, "--calibration", prepared / "calibration.arrow")
        assert not [path for path in folder.rglob("*") if path.is_file() and path.name != "params.yaml"]
        return message

    return refuse


def check(folder: Path, merged: Path, group_size: int) -> None:
    """Compare a quantised model's files with the merged model's: every linear layer, in groups, and smaller."""
    before, after = tensors(merged), tensors(folder / "models" / "awq")
    layers = linear_layers(merged)
    assert packed(folder / "models" / "awq") == layers
    for name in layers:
        height, width = before[f"{name}.weight"].shape
        assert f"{name}.weight" not in after
        assert after[f"{name}.weight_packed"].shape == (height, width // 8)  # eight weights of 4 bits in one int32
        assert after[f"{name}.weight_scale"].shape == (height, width // group_size)
    found = scores(folder)
    assert found["quantized_modules"] == found["expected_modules"] == len(layers) == 14
    assert found["size_bytes"] == (folder / "models" / "awq" / "model.safetensors").stat().st_size
    assert found["merged_size_bytes"] == (merged / "model.safetensors").stat().st_size
    assert found["size_ratio"] == round(found["size_bytes"] / found["merged_size_bytes"], 6) < 1
    config = json.loads((folder / "models" / "awq" / "config.json").read_text(encoding="utf-8"))
    (group,) = config["quantization_config"]["config_groups"].values()
    assert (group["weights"]["num_bits"], group["weights"]["group_size"]) == (4, group_size)
    assert group["weights"]["symmetric"] is False
    assert config["quantization_config"]["ignore"] == ["lm_head"]
    assert config["dtype"] == "bfloat16"


def test_every_linear_layer_is_quantised_in_groups_of_32(awq: Path, workspace: Path, merged: Path) -> None:
    check(workspace, merged, 32)
    assert scores(workspace)["calibration_rows"] == 16


def test_every_linear_layer_is_quantised_in_groups_of_128(quantise: Callable[..., Path], merged: Path) -> None:
    check(quantise({"awq.group_size": 128}), merged, 128)


def test_the_quantised_model_loads_in_transformers_and_answers(awq: Path, merged: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(awq)
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hello!"}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    load = AutoModelForCausalLM.from_pretrained
    quantised, whole = (load(folder, dtype=torch.float32).eval() for folder in (awq, merged))
    answer = quantised.generate(**prompt, max_new_tokens=4, min_new_tokens=4, do_sample=False)
    assert answer.shape[1] == prompt["input_ids"].shape[1] + 4
    with torch.inference_mode():
        ours, theirs = (model(**prompt).logits[0].log_softmax(-1) for model in (quantised, whole))
    assert not torch.equal(ours, theirs)
    assert (theirs.exp() * (theirs - ours)).sum(-1).mean() < 0.01


def test_quantising_again_gives_the_same_bytes(quantise: Callable[..., Path], awq: Path, workspace: Path) -> None:
    folder = quantise({})
    assert files.hashes(folder / "models" / "awq") == files.hashes(awq)
    assert scores(folder) == scores(workspace)


def test_tokenizer_and_template_are_the_merged_models_bytes(awq: Path, merged: Path) -> None:
    for name in WORDS:
        assert (awq / name).read_bytes() == (merged / name).read_bytes()


def test_ignored_layers_stay_whole(quantise: Callable[..., Path], merged: Path) -> None:
    import torch

    ignore = ["lm_head", "re:.*layers\\.0\\.mlp.*", "model.layers.1.self_attn.o_proj"]
    folder = quantise({"awq.ignore": ignore, "awq.scheme": "W4A16"})
    kept = {"model.layers.1.self_attn.o_proj"}
    kept |= {f"model.layers.0.mlp.{part}_proj" for part in ("gate", "up", "down")}
    assert packed(folder / "models" / "awq") == linear_layers(merged) - kept
    after = tensors(folder / "models" / "awq")
    assert all(after[f"{name}.weight"].dtype == torch.bfloat16 for name in kept)
    assert scores(folder)["quantized_modules"] == scores(folder)["expected_modules"] == 14 - len(kept)


def test_calibration_rows_are_cut_to_the_limit_in_order() -> None:
    rows = [tokens.TokenRow(list(range(length)), [1] * length) for length in (12, 3, 10, 1)]
    samples = stage.cut(rows, 10)
    assert list(samples["input_ids"]) == [list(range(length)) for length in (10, 3, 10, 1)]
    assert list(samples["attention_mask"]) == [[1] * length for length in (10, 3, 10, 1)]


def test_the_calibration_rows_in_the_file_are_used(
    params: Callable[..., Path], succeed: Callable[..., str], merged: Path, prepared: Path
) -> None:
    rows = tokens.read(prepared / "calibration.arrow")
    folder = params().parent
    columns = [[row.ids for row in rows[:3]], [row.mask for row in rows[:3]]]
    with pa.OSFile(str(folder / "three.arrow"), "wb") as sink, pa.ipc.new_stream(sink, tokens.SCHEMA) as writer:
        writer.write_table(pa.table(columns, schema=tokens.SCHEMA))
    succeed(stage.main, "--model", merged, "--calibration", "three.arrow")
    assert scores(folder)["calibration_rows"] == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"awq.group_size": 96},
            "awq.group_size 96 does not divide model.layers.0.self_attn.q_proj (128 wide); 128 and its divisors do",
        ),
        (
            {"awq.group_size": 256, "awq.ignore": ["lm_head", "re:.*(q|k|v|gate|up)_proj$"]},
            "awq.group_size 256 does not divide model.layers.0.self_attn.o_proj (128 wide); 128 and its divisors do",
        ),
        (
            {"awq.ignore": ["lm_haed"]},
            "awq.ignore: lm_haed: matches no layer of the model; `re:` begins a pattern",
        ),
        ({"awq.ignore": ["Linear"]}, "awq.ignore leaves no linear layer to quantise; make it shorter"),
    ],
)
def test_settings_that_do_not_fit_the_model_are_errors(
    refuse: Callable[..., str], changes: dict[str, Any], message: str
) -> None:
    assert refuse(changes) == message


def test_a_layer_that_was_left_out_is_an_error(refuse: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = stage.recipe
    left_out = {"ignore": ["lm_head", "re:.*q_proj$"]}
    monkeypatch.setattr(stage, "recipe", lambda config: recipe(config.model_copy(update=left_out)))
    assert refuse({}) == "awq: 12 of 14 linear layers quantised; see awq.ignore"


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("models/merged", "no such file or folder; run `dvc repro merge` first"),
        ("data/prepared/calibration.arrow", "no such file or folder; run `dvc repro` first"),
    ],
)
def test_missing_inputs_are_named(
    params: Callable[..., Path], fail: Callable[..., str], workspace: Path, merged: Path, missing: str, message: str
) -> None:
    folder = params().parent
    shutil.copytree(merged, folder / "models" / "merged")
    shutil.copytree(workspace / "data", folder / "data")
    path = folder / missing
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert fail(stage.main) == f"{missing}: {message}"
