"""Base: the manifest, the chat template and the stop token of models/base."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from stages.base import __main__ as stage
from stages.base import chat_files
from stages.base.params import BaseParams
from stages.common import chat, files
from stages.common.params import load_params


@pytest.fixture
def configure(params: Callable[..., Path]) -> Callable[..., BaseParams]:
    """Return the base section of params.yaml with changes: `configure({"base.stop_token": "<end>"})`."""
    return lambda changes=None: load_params(params(changes), "base", BaseParams)


def folder_with(base: Path, out: Path, template: str | None, **config: Any) -> Path:
    """Copy a model folder with another chat template and more keys in tokenizer_config.json."""
    folder = shutil.copytree(base, out)
    (folder / "chat_template.jinja").unlink()
    if template is not None:
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | config), encoding="utf-8")
    return folder


def test_the_manifest_holds_the_sha256_of_every_file(base: Path) -> None:
    manifest = json.loads((base / "manifest.json").read_text(encoding="utf-8"))
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in base.iterdir()}
    assert manifest["files"] == {name: value for name, value in found.items() if name != "manifest.json"}
    assert {"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"} <= set(manifest["files"])
    lines = "".join(f"{value}  {name}\n" for name, value in sorted(manifest["files"].items()))
    assert (manifest["id"], manifest["revision"]) == ("lockstep/tiny", hashlib.sha256(lines.encode()).hexdigest())


@pytest.mark.parametrize("place", ["file", "config", "named"])
def test_a_template_that_trl_knows_gets_generation_markers(
    base: Path, tmp_path: Path, configure: Callable[..., BaseParams], place: str
) -> None:
    import trl
    from transformers import AutoTokenizer

    templates = Path(trl.__file__).parent / "chat_templates"
    known = (templates / "qwen2_5.jinja").read_text(encoding="utf-8")
    named = [{"name": "tool_use", "template": "{{ 1 }}"}, {"name": "default", "template": known}]
    folder = {
        "file": lambda: folder_with(base, tmp_path / "model", known),
        "config": lambda: folder_with(base, tmp_path / "model", None, chat_template=known),
        "named": lambda: folder_with(base, tmp_path / "model", None, chat_template=named),
    }[place]()
    messages = [
        {"role": "user", "content": "Hello!"},
        {"role": "assistant", "content": "Hi."},
        {"role": "user", "content": "Well?"},
        {"role": "assistant", "content": "Well."},
    ]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    before = tokenizer.apply_chat_template(messages, chat_template=known, tokenize=False)
    record = chat_files.set_chat_template(configure(), folder, tokenizer, folder)
    assert record["chat_template"] == {"from": "trl/qwen2_5_training", "other_text": [], "also": []}
    marked = (folder / "chat_template.jinja").read_text(encoding="utf-8")
    assert marked == (templates / "qwen2_5_training.jinja").read_text(encoding="utf-8")
    chat_tokenizer = chat.load(folder)
    assert chat.render(chat_tokenizer, {"messages": messages})[0] == before
    (row,) = chat.encode(chat_tokenizer, [{"messages": messages}])
    in_loss = [token for token, on in zip(*row, strict=True) if on]
    text = chat_tokenizer.tokenizer.decode(in_loss, skip_special_tokens=False)
    assert text == "\nHi.<|im_end|>\n\nWell.<|im_end|>\n"


def test_a_template_with_markers_does_not_change(
    base: Path, tmp_path: Path, configure: Callable[..., BaseParams]
) -> None:
    folder = shutil.copytree(base, tmp_path / "model")
    assert chat_files.prepare(configure(), folder, folder) == {}
    assert files.hashes(folder) == files.hashes(base)


def test_a_template_of_the_users_replaces_the_models_own(
    base: Path, tmp_path: Path, configure: Callable[..., BaseParams]
) -> None:
    own = (base / "chat_template.jinja").read_text(encoding="utf-8").replace("user", "human")
    folder = shutil.copytree(base, tmp_path / "model")
    templates = tmp_path / "templates"
    templates.mkdir()
    (templates / "own.jinja").write_text(own + "\n", encoding="utf-8")
    config = configure({"base.chat_template": "own.jinja"})
    text = chat_files.read_own(tmp_path / "params.yaml", config, templates)
    chat_files.prepare(config, folder, folder, text)
    assert (folder / "chat_template.jinja").read_text(encoding="utf-8") == own


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        (
            "{{ messages }}",
            "must be the name of a file in data/templates: dvc.lock does not keep every text as it is",
        ),
        ("none.jinja", "none.jinja: not in data/templates (smollm2.jinja); put it there"),
        ("../start/README.md", "../start/README.md: not in data/templates (smollm2.jinja); put it there"),
    ],
)
def test_a_template_that_is_not_there_is_named_before_the_model_is_made(
    params: Callable[..., Path], fail: Callable[..., str], name: str, problem: str
) -> None:
    folder = params({"base.chat_template": name}).parent
    (folder / "data" / "templates").mkdir(parents=True)
    (folder / "data" / "templates" / "smollm2.jinja").touch()
    assert fail(stage.main).startswith(f"params.yaml: base.chat_template: {problem}")
    assert not (folder / "models").exists()


def test_a_stop_token_in_the_params_is_added_to_the_models_own(
    base: Path, tmp_path: Path, configure: Callable[..., BaseParams]
) -> None:
    folder = shutil.copytree(base, tmp_path / "model")
    own = json.loads((base / "generation_config.json").read_text(encoding="utf-8"))["eos_token_id"]
    chat_files.set_stop_token(configure({"base.stop_token": "<|endoftext|>"}), folder)
    added = Tokenizer.from_file(str(base / "tokenizer.json")).token_to_id("<|endoftext|>")
    written = json.loads((folder / "generation_config.json").read_text(encoding="utf-8"))
    assert written["eos_token_id"] == [added, own]
    assert chat.load(folder).stop_ids == {added, own}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("template", "parts"),
    [
        (
            "{% for message in messages %}{{ message.content }}{% endfor %}",
            ("base.chat_template: own.jinja: no {% generation %} markers", "docs/chat-templates.md"),
        ),
        ("{% generation %}", ("models/base/chat_template.jinja:1: ",)),
        (None, ("base.stop_token: '<|nothing|>'",)),
    ],
    ids=["no markers", "syntax error", "stop token"],
)
def test_a_failure_after_the_build_leaves_no_model(
    params: Callable[..., Path], fail: Callable[..., str], template: str | None, parts: tuple[str, ...]
) -> None:
    changes = {"base.chat_template": "own.jinja"} if template else {"base.stop_token": "<|nothing|>"}
    folder = params({"base.tiny.steps": 1} | changes).parent
    (folder / "data" / "templates").mkdir(parents=True)
    (folder / "data" / "templates" / "own.jinja").write_text(template or "", encoding="utf-8")
    message = fail(stage.main)
    assert [part for part in parts if part not in message] == []
    assert list((folder / "models").iterdir()) == []
