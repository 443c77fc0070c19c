"""Messages of awq: what cannot be quantised is an error that names file or key, and nothing is written.

The messages about a model after quantisation are in test_verify.py.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from quantised import change_config, change_tensors, tensors

from stages.awq import __main__ as stage

W8A8: dict[str, Any] = {
    "awq.scheme": "W8A8",
    "awq.group_size": None,
    "awq.duo_scaling": None,
    "awq.smoothing_strength": 0.8,
}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"awq.group_size": 96},
            "awq.group_size: 96 does not divide the input width of model.layers.0.self_attn.q_proj (128); "
            "use auto or a divisor of all widths, such as 32, 64, 128",
        ),
        (
            {"awq.group_size": 96, "awq.ignore": ["lm_head", "re:.*(q|k|v|o|gate|up)_proj$"]},
            "awq.group_size: 96 does not divide the input width of model.layers.0.mlp.down_proj (256); "
            "use auto or a divisor of all widths, such as 32, 64, 128, 256",
        ),
        (
            {"awq.ignore": ["re:*down_proj"]},
            "params.yaml: awq.ignore.0: not a regular expression: nothing to repeat at position 0; "
            "did you mean re:.*down_proj? (got 're:*down_proj')",
        ),
        (
            {"awq.ignore": ["lm_head", "re:.*(q|k"]},
            "params.yaml: awq.ignore.1: not a regular expression: missing ), unterminated subpattern at position 2 "
            "(got 're:.*(q|k')",
        ),
        ({"awq.ignore": ["Linear"]}, "awq.ignore: no linear layer is left to quantise; remove entries"),
        (
            {"awq.max_seq_length": 4, "awq.use_loss_mask": True},
            "awq.use_loss_mask: no row has an assistant token among its first 4 tokens; "
            "raise awq.max_seq_length or set awq.use_loss_mask to false",
        ),
        (
            {"awq.scheme": "W3A16"},
            "params.yaml: awq.scheme: input should be 'W4A16_ASYM', 'W4A16', 'FP8_DYNAMIC' or 'W8A8' (got 'W3A16')",
        ),
        ({"awq.group_size": None}, "params.yaml: awq.group_size: scheme W4A16_ASYM needs a value (got None)"),
        (
            {"awq.smoothing_strength": 0.8},
            "params.yaml: awq.smoothing_strength: scheme W4A16_ASYM does not use it; set it to null (got 0.8)",
        ),
        (
            {"awq.scheme": "FP8_DYNAMIC"},
            "params.yaml: awq.group_size: scheme FP8_DYNAMIC does not use it; set it to null (got 32)",
        ),
        (
            W8A8 | {"awq.use_loss_mask": True, "awq.duo_scaling": False},
            "params.yaml: awq.duo_scaling: scheme W8A8 does not use it; set it to null (got False)\n"
            "params.yaml: awq.use_loss_mask: scheme W8A8 does not use it; set it to false (got True)",
        ),
    ],
)
def test_params_that_do_not_fit_are_errors(refuse: Callable[..., str], changes: dict[str, Any], message: str) -> None:
    assert refuse(changes) == message


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ("lm_haed", "matches no layer of the model; did you mean `lm_head`?"),
        ("model.layers.2.mlp.up_proj", "matches no layer of the model; did you mean `model.layers.1.mlp.up_proj`?"),
        ("down_proj", "matches no layer of the model; did you mean `re:.*down_proj$`?"),
        ("*down_proj", "matches no layer of the model; did you mean `re:.*down_proj`?"),
        ("re:down_proj", "matches no layer of the model; did you mean `re:.*down_proj`?"),
        ("re:.*dwon_proj", "matches no layer of the model; a near name is model.layers.0.mlp.down_proj"),
        ("zzz", "matches no layer of the model; the model has layers such as lm_head"),
        (
            "model.layers.1.mlp",
            "matches no linear layer, only modules that hold some; did you mean `re:model\\.layers\\.1\\.mlp\\..*`?",
        ),
        (
            "Qwen2MLP",
            "matches no linear layer, only modules that hold some; did you mean `re:model\\.layers\\.0\\.mlp\\..*`?",
        ),
        ("model.norm", "matches no linear layer, and nothing else is quantised; remove it"),
        ("", "matches no linear layer, and nothing else is quantised; remove it"),
    ],
)
def test_an_ignored_layer_must_exist_before_the_weights_are_read(
    refuse: Callable[..., str], base: Path, tmp_path: Path, entry: str, problem: str
) -> None:
    folder = tmp_path / "models" / "outline"
    shutil.copytree(base, folder)
    (folder / "model.safetensors").write_bytes(b"nobody reads this")
    message = refuse({"awq.ignore": ["lm_head", entry]}, folder)
    assert message == f"params.yaml: awq.ignore: {entry!r} {problem}"


def lose_half(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "config.json").unlink(), "/config.json: no such file or folder; run `{}` first"),
        (
            lambda folder: (folder / "config.json").write_text("{"),
            "/config.json:1:2: not JSON (Expecting property name enclosed in double quotes); get the model again "
            "with `{}`",
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
        (
            lambda folder: change_tensors(folder, lambda found: found.pop("model.norm.weight")),
            ": model.norm.weight: in no weight file (1 such weights); run `{}`",
        ),
        (
            lambda folder: change_config(folder, lambda config: config.update(vocab_size=7)),
            ": model.embed_tokens.weight: shape ({words}, 128) in the weight file, (7, 128) in config.json "
            "(1 such weights); run `{}`",
        ),
    ],
    ids=["no config", "broken config", "no weights", "half of the weights", "missing weight", "other shape"],
)
def test_a_broken_model_folder_is_an_error(
    refuse: Callable[..., str], base: Path, tmp_path: Path, damage: Callable[[Path], object], message: str
) -> None:
    folder = tmp_path / "models" / "broken"
    shutil.copytree(base, folder)
    words = len(tensors(folder)["model.embed_tokens.weight"])
    damage(folder)
    expected = message.format("dvc repro base", folder=folder, words=words)
    assert refuse({}, folder) == f"{folder}{expected}"


@pytest.mark.parametrize(
    ("missing", "command"),
    [
        ("models/base", "dvc repro base"),
        ("models/adapter", "dvc repro train"),
        ("metrics/merge.json", "dvc repro"),
        ("data/prepared/calibration.arrow", "dvc repro"),
    ],
)
def test_missing_inputs_are_named(
    params: Callable[..., Path], fail: Callable[..., str], workspace: Path, merged: Path, missing: str, command: str
) -> None:
    folder = params().parent
    for name in ("models", "data", "metrics"):
        shutil.copytree(workspace / name, folder / name)
    path = folder / missing
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    message = fail(stage.main)
    assert message.startswith(f"{missing}: ")
    assert f"`{command}`" in message
