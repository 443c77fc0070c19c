"""Messages of the base stage: each is one line with the key, the problem and the next step, asserted here only."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from hub import COMMIT
from tokenizers import Tokenizer

from stages.base import __main__ as stage
from stages.base import chat_files, model_files
from stages.base.params import BaseParams
from stages.common.params import load_params


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "base.id: needed with source: hub, such as Qwen/Qwen2.5-0.5B"),
        *(
            (
                {"base.id": "Qwen/Qwen2.5-0.5B", "base.revision": revision},
                f"base.revision: {revision!r} is not a full commit hash (40 hex digits), and a branch can move; get "
                "the hash with `git ls-remote https://huggingface.co/Qwen/Qwen2.5-0.5B HEAD`",
            )
            for revision in (None, "", "main", "v1.0", COMMIT[:7], COMMIT.upper(), COMMIT + "0", COMMIT + "\n")
        ),
    ],
)
def test_a_hub_model_without_a_full_commit_hash_is_refused(
    params: Callable[..., Path], fail: Callable[..., str], changes: dict[str, Any], message: str
) -> None:
    params({"base.source": "hub"} | changes)
    assert fail(stage.main) == f"params.yaml: {message}"


@pytest.mark.slow
def test_an_id_with_two_slashes_is_refused(params: Callable[..., Path], fail: Callable[..., str]) -> None:
    params({"base.source": "hub", "base.id": "a/b/c", "base.revision": COMMIT})
    message = fail(stage.main)
    assert message.startswith(f"base.id: a/b/c at {COMMIT}: Repo id must be in the form")
    assert message.endswith("; check id, hash and network (https://huggingface.co: HF_ENDPOINT names a mirror)")


@pytest.mark.parametrize("absent", model_files.NEEDED)
def test_a_model_without_a_needed_file_is_refused(base: Path, tmp_path: Path, absent: str) -> None:
    folder = shutil.copytree(base, tmp_path / "model")
    (folder / absent).unlink()
    expected = f"base.id: lockstep/model has no {absent}; choose a model or revision that has it"
    with pytest.raises(click.ClickException, match=f"^{re.escape(expected)}$"):
        model_files.check("base.id: lockstep/model", folder)


def test_a_model_with_code_of_its_own_is_refused(base: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(base, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["auto_map"] = {"AutoModelForCausalLM": "modeling_tiny.Tiny"}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(click.ClickException) as raised:
        model_files.check("base.id: lockstep/model", folder)
    assert raised.value.message == (
        "base.id: lockstep/model: config.json: auto_map: names Python code of its own, which is never run; choose "
        "another model"
    )


def test_weights_that_are_not_whole_are_refused(base: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(base, tmp_path / "model")
    weights = folder / "model.safetensors"
    content = weights.read_bytes()
    index = {"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}

    def message() -> str:
        with pytest.raises(click.ClickException) as raised:
            model_files.check_weights("base.id: lockstep/model", folder)
        return raised.value.message

    weights.write_bytes(content[:-1])
    assert message().startswith(f"base.id: lockstep/model: {weights} is cut off or damaged (")
    assert message().endswith("); delete it, and download it again")
    weights.write_bytes(content)
    (folder / model_files.INDEX).write_text(json.dumps(index), encoding="utf-8")
    assert message() == (
        f"base.id: lockstep/model: 1 of 2 weight files are missing, such as model-2.safetensors ({folder}); download "
        "the rest"
    )
    (folder / model_files.INDEX).unlink()
    weights.unlink()
    assert message() == (
        "base.id: lockstep/model has no safetensors weights (model.safetensors); choose a model or revision that has "
        "them"
    )


def test_a_template_that_no_other_renders_alike_is_refused(
    base: Path, tmp_path: Path, params: Callable[..., Path]
) -> None:
    import trl
    from transformers import AutoTokenizer

    config = load_params(params(), "base", BaseParams)
    folder = shutil.copytree(base, tmp_path / "model")
    known = (Path(trl.__file__).parent / "chat_templates" / "qwen2_5.jinja").read_text(encoding="utf-8")
    (folder / "chat_template.jinja").write_text(known.replace("# Tools", "# Instruments"), encoding="utf-8")
    with pytest.raises(click.ClickException) as raised:
        chat_files.set_chat_template(config, folder, AutoTokenizer.from_pretrained(folder), tmp_path / "cache")
    nearest = Path(trl.__file__).parent / "chat_templates" / "qwen2_5_training.jinja"
    assert raised.value.message == (
        f"{tmp_path}/cache/tokenizer_config.json (key chat_template): no {{% generation %}} markers around the "
        "assistant's answer, so the loss mask would be empty, and no template with markers renders the same text; "
        f"nearest is {nearest} (other text for reasoning, tools): read it, put markers into a copy of the model's "
        "template in the same way, and set base.chat_template to that (docs/chat-templates.md)"
    )


def test_a_stop_token_that_ends_no_answer_is_refused(base: Path, tmp_path: Path, params: Callable[..., Path]) -> None:
    config = load_params(params(), "base", BaseParams)
    folder = shutil.copytree(base, tmp_path / "model")
    (folder / "generation_config.json").write_text('{"eos_token_id": 0}', encoding="utf-8")
    stop = Tokenizer.from_file(str(folder / "tokenizer.json")).id_to_token(0)
    with pytest.raises(click.ClickException) as raised:
        chat_files.prepare(config, folder, folder)
    assert raised.value.message == (
        f"{folder}/chat_template.jinja: an answer ends in <|im_end|>, and generation stops at {stop}, so answers "
        "would not end; set base.stop_token to '<|im_end|>'"
    )


def test_a_stop_token_that_is_not_in_the_vocabulary_is_refused(
    params: Callable[..., Path], base: Path, tmp_path: Path
) -> None:
    config = load_params(params({"base.stop_token": "<|nothing|>"}), "base", BaseParams)
    folder = shutil.copytree(base, tmp_path / "model")
    with pytest.raises(click.ClickException) as raised:
        chat_files.set_stop_token(config, folder)
    assert raised.value.message == (
        "base.stop_token: '<|nothing|>' is not in the model's vocabulary; use a token of tokenizer.json"
    )
