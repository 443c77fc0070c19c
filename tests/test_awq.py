"""AWQ: exactly the expected layers are quantised, the result loads and answers, and what is wrong leaves nothing."""

import json
import shutil
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest

from stages import awq as stage
from stages.common import calibration, files, quantization, reload, tokens

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


def write(path: Path, rows: list[tokens.TokenRow]) -> Path:
    """Write rows as preprocess does."""
    columns = [[row.ids for row in rows], [row.mask for row in rows]]
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, tokens.SCHEMA) as writer:
        writer.write_table(pa.table(columns, schema=tokens.SCHEMA))
    return path


def linear_layers(folder: Path) -> set[str]:
    return {name.removesuffix(".weight") for name in tensors(folder) if "_proj.weight" in name}


@pytest.fixture
def quantise(
    params: Callable[..., Path], succeed: Callable[..., str], merged: Path, prepared: Path
) -> Callable[..., Path]:
    """Quantise the session's merged model with other params, and give the folder of the run."""

    def quantise(changes: dict[str, Any], rows: Path | None = None) -> Path:
        folder = params(changes).parent
        succeed(stage.main, "--model", merged, "--calibration", rows or prepared / "calibration.arrow")
        return folder

    return quantise


@pytest.fixture
def refuse(params: Callable[..., Path], fail: Callable[..., str], merged: Path, prepared: Path) -> Callable[..., str]:
    """Quantise with params or a model that cannot work, and give the message; nothing may be left."""

    def refuse(changes: dict[str, Any], model: Path | None = None) -> str:
        folder = params(changes).parent
        message = fail(stage.main, "--model", model or merged, "--calibration", prepared / "calibration.arrow")
        given = {folder / "params.yaml", *(model.iterdir() if model else ())}
        assert {path for path in folder.rglob("*") if path.is_file()} <= given
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
    assert 0 <= found["reload_kl_mean"] < 0.001
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
    folder = quantise({"awq.ignore": ignore, "awq.scheme": "W4A16", "awq.samples": 2})
    kept = {"model.layers.1.self_attn.o_proj"}
    kept |= {f"model.layers.0.mlp.{part}_proj" for part in ("gate", "up", "down")}
    assert packed(folder / "models" / "awq") == linear_layers(merged) - kept
    after = tensors(folder / "models" / "awq")
    assert all(after[f"{name}.weight"].dtype == torch.bfloat16 for name in kept)
    assert scores(folder)["quantized_modules"] == scores(folder)["expected_modules"] == 14 - len(kept)


def test_the_head_of_a_model_with_tied_embeddings_can_be_quantised_too(
    quantise: Callable[..., Path], merged: Path
) -> None:
    folder = quantise({"awq.ignore": [], "awq.samples": 2})
    assert packed(folder / "models" / "awq") == linear_layers(merged) | {"lm_head"}
    assert tensors(folder / "models" / "awq")["model.embed_tokens.weight"].equal(
        tensors(merged)["model.embed_tokens.weight"]
    )
    assert scores(folder)["quantized_modules"] == scores(folder)["expected_modules"] == 15


SCHEMES = {
    "FP8_DYNAMIC": {"awq.samples": 4, "awq.scheme": "FP8_DYNAMIC", "awq.group_size": None},
    "W8A8": {
        "awq.samples": 4,
        "awq.scheme": "W8A8",
        "awq.group_size": None,
        "awq.duo_scaling": None,
        "awq.smoothing_strength": 0.8,
    },
}


@pytest.mark.parametrize(("scheme", "stored"), [("FP8_DYNAMIC", "float8_e4m3fn"), ("W8A8", "int8")])
def test_weights_of_8_bits_have_a_scale_for_each_row(
    quantise: Callable[..., Path], merged: Path, scheme: str, stored: str
) -> None:
    folder = quantise(SCHEMES[scheme])
    before, after = tensors(merged), tensors(folder / "models" / "awq")
    for name in linear_layers(merged):
        assert str(after[f"{name}.weight"].dtype) == f"torch.{stored}"
        assert after[f"{name}.weight"].shape == before[f"{name}.weight"].shape
        assert after[f"{name}.weight_scale"].shape == (before[f"{name}.weight"].shape[0], 1)
    assert scores(folder)["quantized_modules"] == 14
    config = json.loads((folder / "models" / "awq" / "config.json").read_text(encoding="utf-8"))
    (group,) = config["quantization_config"]["config_groups"].values()
    assert (group["weights"]["num_bits"], group["weights"]["strategy"]) == (8, "channel")
    assert (group["input_activations"]["num_bits"], group["input_activations"]["dynamic"]) == (8, True)
    hashes = files.hashes(folder / "models" / "awq")
    assert files.hashes(quantise(SCHEMES[scheme]) / "models" / "awq") == hashes


def test_rows_are_cut_to_the_limit_in_order(params: Callable[..., Path], tmp_path: Path) -> None:
    rows = [tokens.TokenRow(list(range(length)), [0] + [1] * (length - 1)) for length in (12, 3, 10, 1)]
    config = stage.settings.load(
        params({"awq.max_seq_length": 10, "awq.samples": 4, "awq.use_loss_mask": True}), "awq", stage.AwqParams
    )
    cut = calibration.read(write(tmp_path / "rows.arrow", rows), config)
    assert [row.ids for row in cut] == [list(range(length)) for length in (10, 3, 10, 1)]
    samples = calibration.samples(cut, config)
    assert list(samples["input_ids"]) == [row.ids for row in cut]
    assert list(samples["attention_mask"]) == [[1] * len(row.ids) for row in cut]
    assert list(samples["loss_mask"]) == [row.mask for row in cut] == [[0] + [1] * (len(row.ids) - 1) for row in cut]


def test_as_many_rows_are_used_as_samples_says_and_no_others(
    quantise: Callable[..., Path], prepared: Path, tmp_path: Path
) -> None:
    folder = quantise({"awq.samples": 3})
    hashes, found = files.hashes(folder / "models" / "awq"), scores(folder)
    three = write(tmp_path / "three.arrow", tokens.read(prepared / "calibration.arrow", 3))
    quantise({"awq.samples": 3}, three)
    assert files.hashes(folder / "models" / "awq") == hashes
    assert scores(folder) == found
    assert found["calibration_rows"] == 3


def test_only_the_assistants_tokens_count_when_told_so(
    quantise: Callable[..., Path], awq: Path, prepared: Path, tmp_path: Path
) -> None:
    masked = tensors(quantise({"awq.use_loss_mask": True}) / "models" / "awq")
    norm = "model.layers.0.input_layernorm.weight"  # AWQ's scales go in here
    assert not masked[norm].equal(tensors(awq)[norm])
    rows = [tokens.TokenRow(row.ids, [1] * len(row.ids)) for row in tokens.read(prepared / "calibration.arrow")]
    everything = quantise({"awq.use_loss_mask": True}, write(tmp_path / "everything.arrow", rows))
    assert files.hashes(everything / "models" / "awq") == files.hashes(awq)


def test_rows_whose_answers_are_cut_off_still_calibrate_and_compare(quantise: Callable[..., Path]) -> None:
    assert 0 <= scores(quantise({"awq.max_seq_length": 4, "awq.samples": 4}))["reload_kl_mean"] < reload.LIMIT


def test_the_full_log_of_the_compressor_is_kept(
    quantise: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOG_FOLDER", str(tmp_path / "logs"))
    quantise({"awq.samples": 2})
    (log,) = (tmp_path / "logs").iterdir()
    text = log.read_text(encoding="utf-8")
    assert "Inferred `SequentialPipeline` for `AWQModifier`" in text  # layer by layer, on whatever device
    assert "AWQ grid search for model.layers.1.mlp.up_proj: initial error" in text
    assert "Resaved original config" in text  # the log goes on until the model is saved


def test_a_device_beside_the_host_holds_one_layer_at_a_time_and_changes_nothing(
    quantise: Callable[..., Path], merged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights that come to a GPU are copies of those on the host; here they are copies, too, and counted."""
    import torch
    from compressed_tensors.offload.cache import CPUCache

    plain = quantise({"awq.samples": 2})
    hashes, found = files.hashes(plain / "models" / "awq"), scores(plain)
    there, peak = 0, 0

    def leave(size: int) -> None:
        nonlocal there
        there -= size

    def visit(cache: CPUCache, tensor: "Tensor | None") -> "Tensor | None":
        nonlocal there, peak
        if tensor is None:
            return None
        copy = tensor.detach().clone()
        if isinstance(tensor, torch.nn.Parameter):
            copy = torch.nn.Parameter(copy, requires_grad=tensor.requires_grad)
        there += copy.nbytes
        peak = max(peak, there)
        weakref.finalize(copy, leave, copy.nbytes)
        return copy

    monkeypatch.setattr(CPUCache, "onload", visit)
    folder = quantise({"awq.samples": 2})
    assert files.hashes(folder / "models" / "awq") == hashes
    assert scores(folder) == found
    weights = {name: 4 * tensor.numel() for name, tensor in tensors(merged).items()}  # in float32
    layer = sum(size for name, size in weights.items() if "layers.0." in name)
    assert layer < peak < 1.1 * layer + weights["model.embed_tokens.weight"] < sum(weights.values())


def test_a_question_is_asked_and_answered(
    params: Callable[..., Path], succeed: Callable[..., str], merged: Path, prepared: Path
) -> None:
    params({"awq.samples": 2})
    said = succeed(stage.main, "--model", merged, "--calibration", prepared / "calibration.arrow").splitlines()
    assert [line for line in said if line.startswith("asked: ") and "Write both words in capitals." in line]
    assert [line for line in said if line.startswith("said: ")]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"awq.group_size": 96},
            "awq.group_size 96 does not divide model.layers.0.self_attn.q_proj (128 wide); "
            "32, 64, 128 divide every layer",
        ),
        (
            {"awq.group_size": 96, "awq.ignore": ["lm_head", "re:.*(q|k|v|o|gate|up)_proj$"]},
            "awq.group_size 96 does not divide model.layers.0.mlp.down_proj (256 wide); "
            "32, 64, 128, 256 divide every layer",
        ),
        (
            {"awq.ignore": ["lm_haed"]},
            "awq.ignore: lm_haed: matches no layer of the model; `re:` begins a pattern",
        ),
        ({"awq.ignore": ["Linear"]}, "awq.ignore leaves no linear layer to quantise; make it shorter"),
        (
            {"awq.max_seq_length": 4, "awq.use_loss_mask": True},
            "awq.use_loss_mask: no token of an answer in the first 4 of any row; "
            "raise awq.max_seq_length or set awq.use_loss_mask to false",
        ),
        (
            {"awq.scheme": "W3A16"},
            "params.yaml: awq.scheme: input should be 'W4A16_ASYM', 'W4A16', 'FP8_DYNAMIC' or 'W8A8' (got 'W3A16')",
        ),
        ({"awq.group_size": None}, "params.yaml: awq.group_size: scheme W4A16_ASYM needs a value (got None)"),
        (
            {"awq.smoothing_strength": 0.8},
            "params.yaml: awq.smoothing_strength: scheme W4A16_ASYM has no use for it; set it to null (got 0.8)",
        ),
        (
            {"awq.scheme": "FP8_DYNAMIC"},
            "params.yaml: awq.group_size: scheme FP8_DYNAMIC has no use for it; set it to null (got 32)",
        ),
        (
            SCHEMES["W8A8"] | {"awq.use_loss_mask": True, "awq.duo_scaling": False},
            "params.yaml: awq.duo_scaling: scheme W8A8 has no use for it; set it to null (got False)\n"
            "params.yaml: awq.use_loss_mask: scheme W8A8 has no use for it; set it to false (got True)",
        ),
    ],
)
def test_settings_that_do_not_fit_are_errors(
    refuse: Callable[..., str], changes: dict[str, Any], message: str
) -> None:
    assert refuse(changes) == message


def test_fewer_rows_than_samples_are_all_used_and_said(
    params: Callable[..., Path], succeed: Callable[..., str], merged: Path, prepared: Path, tmp_path: Path
) -> None:
    params({"awq.samples": 17})
    arrow = write(tmp_path / "two.arrow", tokens.read(prepared / "calibration.arrow", 2))
    said = succeed(stage.main, "--model", merged, "--calibration", arrow)
    assert f"calibrated on 2 rows, all that {arrow} has; awq.samples asks for 17\n" in said
    assert scores(tmp_path)["calibration_rows"] == 2


def lose_norm(folder: Path) -> None:
    change(folder, lambda found: found.pop("model.norm.weight"))


def lose_half(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def widen(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": 7}), encoding="utf-8")


def change(folder: Path, edit: Callable[["dict[str, Tensor]"], object]) -> None:
    """Change the tensors in a model's file."""
    from safetensors.torch import save_file

    found = {name: tensor.clone() for name, tensor in tensors(folder).items()}
    edit(found)
    save_file(found, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "config.json").unlink(), "/config.json: no such file or folder; run `{}` first"),
        (
            lambda folder: (folder / "config.json").write_text("{"),
            ": cannot be loaded: It looks like the config file at '{folder}/config.json' is not a valid JSON file; "
            "run `{}`",
        ),
        (
            lambda folder: (folder / "model.safetensors").unlink(),
            ": cannot be loaded: Error no file named model.safetensors, or pytorch_model.bin, found in directory "
            "{folder}; run `{}`",
        ),
        (
            lose_half,
            ": cannot be loaded: Error while deserializing header: incomplete metadata, file not fully covered; "
            "run `{}`",
        ),
        (lose_norm, ": model.norm.weight: in no weight file (1 such weights); run `{}`"),
        (
            widen,
            ": model.embed_tokens.weight: ({words}, 128) in the weight file, (7, 128) by config.json "
            "(1 such weights); run `{}`",
        ),
    ],
)
def test_a_broken_model_folder_is_an_error(
    refuse: Callable[..., str], merged: Path, tmp_path: Path, damage: Callable[[Path], object], message: str
) -> None:
    folder = tmp_path / "models" / "broken"
    shutil.copytree(merged, folder)
    words = len(tensors(folder)["model.embed_tokens.weight"])
    damage(folder)
    expected = message.format("dvc repro merge", folder=folder, words=words)
    assert refuse({}, folder) == f"{folder}{expected}"


@pytest.mark.parametrize(
    ("ignore", "message"),
    [
        (
            ["lm_head", "re:.*q_proj$"],
            "awq: 12 of 14 linear layers quantised; model.layers.0.self_attn.q_proj is whole; see awq.ignore",
        ),
        ([], "awq: 14 of 14 linear layers quantised; lm_head is none of them; see awq.ignore"),
    ],
)
def test_other_layers_than_the_expected_ones_are_an_error(
    refuse: Callable[..., str], monkeypatch: pytest.MonkeyPatch, ignore: list[str], message: str
) -> None:
    recipe = quantization.recipe
    monkeypatch.setattr(quantization, "recipe", lambda config: recipe(config.model_copy(update={"ignore": ignore})))
    assert refuse({"awq.samples": 2}) == message


def store_twice(folder: Path) -> None:
    change(folder, lambda found: found.update(twice=found["model.embed_tokens.weight"].clone()))


def forget_quantisation(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    del config["quantization_config"]
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (forget_quantisation, "awq: 0 of 14 linear layers quantised; model.layers.0.mlp.down_proj is whole; "),
        (
            lambda folder: change(folder, lambda found: found.pop("model.layers.1.mlp.up_proj.weight_scale")),
            "awq: 13 of 14 linear layers quantised; model.layers.1.mlp.up_proj is whole; see awq.ignore",
        ),
        (store_twice, "models/awq: {twice} bytes of weights, but {once} by the layers' shapes (at most 1% off); "),
        (
            lambda folder: change(
                folder, lambda found: found["model.layers.0.mlp.down_proj.weight_packed"].bitwise_not_()
            ),
            "models/awq: read back, it is another model than the one that was saved: KL ",
        ),
        (
            lambda folder: change(folder, lambda found: found["model.norm.weight"].fill_(float("inf"))),
            "awq: the quantised model gives infinite or undefined numbers; nothing was kept",
        ),
    ],
)
def test_a_damaged_result_is_found_and_not_kept(
    refuse: Callable[..., str],
    awq: Path,
    monkeypatch: pytest.MonkeyPatch,
    damage: Callable[[Path], object],
    message: str,
) -> None:
    """What is wrong with the files is found whatever made it so: here they are changed as soon as they are saved."""
    copy = stage.copy_words
    monkeypatch.setattr(stage, "copy_words", lambda model, out: (copy(model, out), damage(out)))
    sizes = {name: tensor.nbytes for name, tensor in tensors(awq).items()}
    once, twice = sum(sizes.values()), sum(sizes.values()) + sizes["model.embed_tokens.weight"]
    assert refuse({"awq.samples": 2}).startswith(message.format(once=once, twice=twice))


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
