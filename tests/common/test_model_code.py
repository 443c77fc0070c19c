"""Model folder: every stage refuses configuration that names code; nothing of it runs."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from folder_readers import READERS

from stages.common import model_folder
from stages.common.model_folder import QUANTISED, refuse_code
from stages.train import __main__ as train
from tools.common import dvc_cache
from tools.serve import snapshot
from tools.serve.proof import Model, examine_folder

# Of each file: what it must not hold, and a part of the message.
FOREIGN: dict[str, tuple[str, dict[str, Any], str]] = {
    "code of the model": ("config.json", {"auto_map": {"AutoConfig": "configuration_x.X"}}, "auto_map: names Python"),
    "code of the hub": ("config.json", {"auto_map": {"AutoConfig": "owner/name--x.X"}}, "auto_map: names Python"),
    "code of a part": ("config.json", {"text_config": {"auto_map": {"AutoModel": "x.X"}}}, "auto_map: names Python"),
    "a part in a list": ("config.json", {"parts": [{"auto_map": {"AutoModel": "x.X"}}]}, "auto_map: names Python"),
    "pipelines": ("config.json", {"custom_pipelines": {"x": {"impl": "x.X"}}}, "custom_pipelines: names Python"),
    "architecture": ("config.json", {"architectures": ["OursForCausalLM"]}, "'OursForCausalLM' is not a class of"),
    "quantisation": ("config.json", {"quantization_config": {"quant_method": "ours"}}, "quant_method: 'ours'"),
    "no method": ("config.json", {"quantization_config": {"bits": 4}}, "quant_method: None"),
    "kernel of the hub": ("config.json", {"_attn_implementation": "owner/kernel"}, "is downloaded code"),
    "generation": ("generation_config.json", {"custom_generate": "owner/name"}, "custom_generate: names Python"),
    "code of a tokenizer": ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["x.X", None]}}, "auto_map:"),
    "class of a tokenizer": ("tokenizer_config.json", {"tokenizer_class": "OurTokenizer"}, "'OurTokenizer' is not"),
    "class of a processor": ("tokenizer_config.json", {"processor_class": "x.Ours"}, "'x.Ours' is not a class"),
    "library of an adapter": (
        "adapter_config.json",
        {"auto_mapping": {"base_model_class": "X", "parent_library": "ours.model"}},
        "parent_library: 'ours.model'",
    ),
    "megatron": ("adapter_config.json", {"megatron_core": "ours.core"}, "megatron_core: 'ours.core'"),
    "pickle by an index": (
        "pytorch_model.bin.index.json",
        {"weight_map": {"x": "../elsewhere.bin"}},
        "weight_map: '../elsewhere.bin'",
    ),
    "weights elsewhere": (
        "model.safetensors.index.json",
        {"weight_map": {"x": "/elsewhere/model.safetensors"}},
        "weight_map: '/elsewhere/model.safetensors'",
    ),
}


def change(path: Path, values: dict[str, Any]) -> None:
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    path.write_text(json.dumps(known | values), encoding="utf-8")


@pytest.mark.parametrize("reader", READERS, ids="-".join)
def test_every_stage_refuses_code_and_does_not_run_it(
    outputs: Path, fail: Callable[..., str], reader: tuple[str, str]
) -> None:
    """The code is no file of the folder, which would be refused for that, but in the cache of an earlier download."""
    main, arguments = READERS[reader]
    path = outputs / "models" / reader[1] / "tokenizer_config.json"
    change(path, {"auto_map": {"AutoTokenizer": ["owner/name--trap.Trap", None]}})
    message = fail(main, *arguments)
    assert message == (
        f"models/{reader[1]}/tokenizer_config.json: auto_map: names Python code of its own, which is never run; use "
        f"a model without it, or run `dvc repro{'' if reader[0] in ('eval', 'report') else ' ' + made_by(reader[1])}`"
    )


def made_by(folder: str) -> str:
    return {"adapter": "train", "merged": "merge"}.get(folder, folder)


@pytest.mark.parametrize("case", FOREIGN)
def test_what_is_not_part_of_the_libraries_is_refused(base: Path, tmp_path: Path, case: str) -> None:
    folder = shutil.copytree(base, tmp_path / "model")
    model_folder.require(folder, "dvc repro base")
    name, values, words = FOREIGN[case]
    change(folder / name, values)
    with pytest.raises(click.ClickException) as raised:
        model_folder.require(folder, "dvc repro base")
    assert raised.value.message.startswith(f"{folder / name}: ")
    assert words in raised.value.message
    assert raised.value.message.endswith("; use a model without it, or run `dvc repro base`")


def test_an_adapter_to_start_from_must_not_name_code(
    outputs: Path, params: Callable[..., Path], fail: Callable[..., str], adapter: Path
) -> None:
    start = shutil.copytree(adapter, outputs / "data" / "start" / "theirs")
    change(start / "tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["trap.Trap", None]}})
    params({"train.resume_from": "theirs"})
    assert fail(train.main).startswith("data/start/theirs/tokenizer_config.json: auto_map: names Python code")


@pytest.mark.slow
@pytest.mark.parametrize("case", ["code of the model", "class of a tokenizer", "library of an adapter"])
def test_it_is_not_served_either(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    """As an adapter from outside, and as a model of a revision, whose files come from DVC's cache."""
    monkeypatch.chdir(tmp_path)
    folder = shutil.copytree(base, tmp_path / "model")
    name, values, words = FOREIGN[case]
    change(folder / name, values)
    with pytest.raises(click.ClickException) as raised:
        examine_folder(folder)
    assert words in raised.value.message
    with pytest.raises(click.ClickException) as raised:
        snapshot.take(Model("base", folder, None, dvc_cache.folder_md5(folder)))
    assert words in raised.value.message


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", ":1:1: not JSON (Expecting value)"),
        (b'{\n  "a": 1,\n  "b"\n}', ":4:1: not JSON (Expecting ':' delimiter)"),
        (b'{"a": 1} {', ":1:10: not JSON (Extra data)"),
        (b'{"a": "\xff"}', ": not UTF-8 (invalid start byte at byte 7)"),
        (b"[" * 100_000, ": a number is too long or the nesting too deep"),
        (b"1" * 5000, ": a number is too long or the nesting too deep"),
    ],
)
def test_a_damaged_configuration_is_one_line(base: Path, tmp_path: Path, content: bytes, problem: str) -> None:
    folder = shutil.copytree(base, tmp_path / "model")
    (folder / "config.json").write_bytes(content)
    with pytest.raises(click.ClickException) as raised:
        model_folder.require(folder, "dvc repro base")
    assert raised.value.message == f"{folder}/config.json{problem}; get the model again with `dvc repro base`"


def test_a_deep_configuration_is_read(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"a":' * 900 + "1" + "}" * 900, encoding="utf-8")
    refuse_code(path, "config.json", "", "")


@pytest.mark.parametrize(
    "values",
    [
        {"tokenizer_class": "Qwen2TokenizerFast"},
        {"tokenizer_class": "PreTrainedTokenizerFast", "auto_map": None, "processor_class": "Qwen2_5_VLProcessor"},
        {"architectures": ["LlamaForCausalLM"], "attn_implementation": "sdpa"},
        {"quantization_config": {"quant_method": "compressed-tensors"}},
        {"auto_mapping": None, "megatron_core": "megatron.core", "megatron_config": None},
    ],
)
def test_usual_models_pass(tmp_path: Path, values: dict[str, Any]) -> None:
    change(tmp_path / "config.json", values)
    refuse_code(tmp_path / "config.json", "config.json", "", "")


@pytest.mark.slow
def test_transformers_reads_every_allowed_kind_of_quantisation() -> None:
    from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING

    assert set(QUANTISED) <= set(AUTO_QUANTIZATION_CONFIG_MAPPING)
