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

from stages.base import __main__ as stage
from stages.base import hub
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
    assert message.endswith("; check the id and hash, the network, and for gated models HF_TOKEN")


@pytest.mark.parametrize(
    ("absent", "message"),
    [
        ("model.safetensors", "has no safetensors weights; choose a revision that has them"),
        ("config.json", "has no config.json; choose a revision that has it"),
        ("tokenizer.json", "has no tokenizer.json; choose a revision that has it"),
        ("tokenizer_config.json", "has no tokenizer_config.json; choose a revision that has it"),
    ],
)
def test_a_hub_model_that_cannot_be_used_is_refused(base: Path, tmp_path: Path, absent: str, message: str) -> None:
    folder = shutil.copytree(base, tmp_path / "model")
    (folder / absent).unlink()
    with pytest.raises(click.ClickException, match=f"^{re.escape(f'base.id: lockstep/model {message}')}$"):
        hub.check("lockstep/model", folder)


def test_a_hub_model_with_code_of_its_own_is_refused(base: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(base, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["auto_map"] = {"AutoModelForCausalLM": "modeling_tiny.Tiny"}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(click.ClickException) as raised:
        hub.check("lockstep/model", folder)
    assert raised.value.message == (
        "base.id: lockstep/model: config.json: auto_map: names Python code of its own, which is never run; choose "
        "another model"
    )


def test_a_stop_token_that_is_not_in_the_vocabulary_is_refused(
    params: Callable[..., Path], base: Path, tmp_path: Path
) -> None:
    config = load_params(params({"base.stop_token": "<|nothing|>"}), "base", BaseParams)
    folder = shutil.copytree(base, tmp_path / "model")
    with pytest.raises(click.ClickException) as raised:
        stage.set_stop_token(config, folder)
    assert raised.value.message == (
        "base.stop_token: '<|nothing|>' is not in the model's vocabulary; use a token of tokenizer.json"
    )
