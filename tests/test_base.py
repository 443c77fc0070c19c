"""Base: the built-in model has one set of bytes, and a hub model is what a commit holds, weights and words only."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hub import COMMIT, Hub
from ruamel.yaml import YAML
from tokenizers import Tokenizer

from stages import base as stage
from stages.common import chat, files

ROOT = Path(__file__).resolve().parents[1]
ORIGINAL = "{% for message in messages %}{{ message.role + ': ' + message.content + '<|im_end|>' }}{% endfor %}"


@pytest.fixture
def model(base: Path, tmp_path: Path, hub: Hub) -> Path:
    """The built-in model's folder as a repository of the hub: lockstep/model."""
    folder = shutil.copytree(base, tmp_path / "model", ignore=shutil.ignore_patterns("manifest.json"))
    hub.models, hub.asked = {"lockstep/model": folder}, []
    return folder


@pytest.fixture
def fetch(tmp_path: Path, params: Callable[..., Path], hub: Hub) -> Callable[..., tuple[int, str]]:
    """Run the stage as its own process against the hub, and give its exit code and last line."""

    def fetch(name: str, address: str = hub.address) -> tuple[int, str]:
        path = params({"base.source": "hub", "base.id": name, "base.revision": COMMIT})
        environment = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
        environment |= {"HF_ENDPOINT": address, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "cache")}
        command = [sys.executable, "-m", "stages.base", "--params", path, "--out", tmp_path / "out"]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=100)
        assert "Traceback" not in done.stderr
        return done.returncode, (done.stdout or done.stderr).splitlines()[-1]

    return fetch


def test_two_builds_have_the_same_bytes(params: Callable[..., Path], succeed: Callable[..., str], base: Path) -> None:
    folder = params().parent
    succeed(stage.main)
    assert files.hashes(folder / "models" / "base") == files.hashes(base)


def test_another_seed_builds_another_model(
    params: Callable[..., Path], succeed: Callable[..., str], base: Path
) -> None:
    folder = params({"base.tiny.seed": 8}).parent
    succeed(stage.main)
    assert files.hashes(folder / "models" / "base")["model.safetensors"] != files.hashes(base)["model.safetensors"]


def test_the_manifest_holds_every_files_sha256(base: Path) -> None:
    manifest = json.loads((base / "manifest.json").read_text(encoding="utf-8"))
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in base.iterdir()}
    assert manifest["files"] == {name: value for name, value in found.items() if name != "manifest.json"}
    assert {"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"} <= set(manifest["files"])
    lines = "".join(f"{value}  {name}\n" for name, value in sorted(manifest["files"].items()))
    assert (manifest["id"], manifest["revision"]) == ("lockstep/tiny", hashlib.sha256(lines.encode()).hexdigest())


def test_the_default_model_suits_awq_and_vllm() -> None:
    from accelerate import init_empty_weights
    from transformers import Qwen2Config, Qwen2ForCausalLM

    document = YAML(typ="safe", pure=True).load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    tiny = stage.BaseParams.model_validate(document["base"]).tiny
    sizes = {name: value for name, value in tiny.model_dump().items() if hasattr(Qwen2Config(), name)}
    with init_empty_weights():
        network = Qwen2ForCausalLM(Qwen2Config(**sizes, tie_word_embeddings=True))
    assert 1_000_000 <= sum(weight.numel() for weight in network.parameters()) <= 5_000_000
    assert tiny.hidden_size % 128 == tiny.intermediate_size % 128 == 0
    assert tiny.hidden_size // tiny.num_attention_heads in (32, 64, 80, 96, 112, 128)
    assert document["preprocess"]["max_length"] <= tiny.max_position_embeddings


def test_a_hub_model_is_downloaded_without_pickles_and_code(
    model: Path, hub: Hub, fetch: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    (model / "onnx").mkdir()
    unwanted = ("pytorch_model.bin", "modeling_tiny.py", "README.md", "onnx/model.safetensors", "onnx/config.json")
    for name in unwanted:
        (model / name).write_bytes(b"not wanted")
    weights = (model / "model.safetensors").stat().st_size
    assert fetch("lockstep/model") == (0, f"lockstep/model at {COMMIT}: {weights} bytes of weights in {tmp_path}/out")
    expected = {name: value for name, value in files.hashes(model).items() if name not in unwanted}
    assert sorted(hub.asked) == sorted(expected)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text(encoding="utf-8"))
    assert manifest == {"id": "lockstep/model", "revision": COMMIT, "files": expected}
    found = files.hashes(tmp_path / "out")
    found.pop("manifest.json")
    assert found == expected
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "out").iterdir()} == {0o644}


@pytest.mark.parametrize(
    ("absent", "message"),
    [
        ("model.safetensors", "has no safetensors weights; choose a revision that has"),
        ("tokenizer.json", "has no tokenizer.json; choose a revision that has"),
        ("config.json", "has no config.json; choose a revision that has"),
    ],
)
def test_a_hub_model_that_lacks_a_part_is_refused(
    model: Path, fetch: Callable[..., tuple[int, str]], tmp_path: Path, absent: str, message: str
) -> None:
    (model / "pytorch_model.bin").write_bytes(b"not wanted")
    (model / absent).unlink()
    assert fetch("lockstep/model") == (1, f"Error: base.id: lockstep/model {message}")
    assert not (tmp_path / "out").exists()


def test_a_hub_model_that_needs_code_is_refused(
    model: Path, fetch: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    config["auto_map"] = {"AutoModelForCausalLM": "modeling_tiny.Tiny"}
    (model / "config.json").write_text(json.dumps(config), encoding="utf-8")
    message = "Error: base.id: lockstep/model needs code of its own, which is never run; choose another"
    assert fetch("lockstep/model") == (1, message)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["lockstep/absent", "lockstep/gated"])
def test_a_hub_that_refuses_is_named_with_what_to_check(
    model: Path, fetch: Callable[..., tuple[int, str]], tmp_path: Path, name: str
) -> None:
    code, message = fetch(name)
    assert code == 1
    assert message.startswith(f"Error: base.id: {name} at {COMMIT}: {'403' if name.endswith('gated') else '404'} ")
    assert message.endswith("; check the id and hash, the network, and for gated models HF_TOKEN")
    assert not (tmp_path / "out").exists()


def test_a_hub_out_of_reach_is_named_with_what_to_check(
    fetch: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    code, message = fetch("lockstep/model", "http://127.0.0.1:9")
    assert code == 1
    assert message.startswith(f"Error: base.id: lockstep/model at {COMMIT}: ")
    assert message.endswith("; check the id and hash, the network, and for gated models HF_TOKEN")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "base.id: needed with source: hub, such as Qwen/Qwen2.5-0.5B"),
        *(
            (
                {"base.id": "Qwen/Qwen2.5-0.5B", "base.revision": revision},
                f"base.revision: {revision!r} is no full commit hash (40 hex digits), and a branch moves; get the "
                "hash with `git ls-remote https://huggingface.co/Qwen/Qwen2.5-0.5B HEAD`",
            )
            for revision in (None, "main", "v1.0", COMMIT[:7], COMMIT.upper(), COMMIT + "0", COMMIT + "\n")
        ),
    ],
)
def test_a_hub_model_without_a_full_commit_hash_is_refused(
    params: Callable[..., Path], fail: Callable[..., str], changes: dict[str, Any], message: str
) -> None:
    params({"base.source": "hub"} | changes)
    assert fail(stage.main) == f"params.yaml: {message}"


def test_an_id_that_is_none_is_refused(params: Callable[..., Path], fail: Callable[..., str]) -> None:
    params({"base.source": "hub", "base.id": "a/b/c", "base.revision": COMMIT})
    assert fail(stage.main).startswith(f"base.id: a/b/c at {COMMIT}: Repo id must be in the form")


def folder_with(base: Path, out: Path, template: str | None, **config: Any) -> Path:
    """Copy a model folder with another chat template and more keys in tokenizer_config.json."""
    folder = shutil.copytree(base, out)
    (folder / "chat_template.jinja").unlink()
    if template is not None:
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | config), encoding="utf-8")
    return folder


def configured(**changes: Any) -> stage.BaseParams:
    document = YAML(typ="safe", pure=True).load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    return stage.BaseParams.model_validate(document["base"] | changes)


@pytest.mark.parametrize("place", ["file", "config", "named"])
def test_a_template_that_trl_knows_gets_its_generation_markers(base: Path, tmp_path: Path, place: str) -> None:
    import trl
    from transformers import AutoTokenizer

    templates = Path(trl.__file__).parent / "chat_templates"
    known = (templates / "qwen2_5.jinja").read_text(encoding="utf-8")
    folder = {
        "file": lambda: folder_with(base, tmp_path / "model", known),
        "config": lambda: folder_with(base, tmp_path / "model", None, chat_template=known),
        "named": lambda: folder_with(base, tmp_path / "model", None, chat_template=[
            {"name": "tool_use", "template": "{{ 1 }}"}, {"name": "default", "template": known}
        ]),
    }[place]()  # fmt: skip
    messages = [
        {"role": "user", "content": "Hello!"},
        {"role": "assistant", "content": "Hi."},
        {"role": "user", "content": "Well?"},
        {"role": "assistant", "content": "Well."},
    ]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    before = tokenizer.apply_chat_template(messages, chat_template=known, tokenize=False)
    stage.set_chat_template(configured(), folder)
    marked = (folder / "chat_template.jinja").read_text(encoding="utf-8")
    assert marked == (templates / "qwen2_5_training.jinja").read_text(encoding="utf-8")
    speaker = chat.load(folder)
    assert chat.render(speaker, {"messages": messages})[0] == before
    (row,) = chat.encode(speaker, [{"messages": messages}])
    learnt = speaker.tokenizer.decode(
        [token for token, on in zip(*row, strict=True) if on], skip_special_tokens=False
    )
    assert learnt == "\nHi.<|im_end|>\n\nWell.<|im_end|>\n"


def test_a_template_with_markers_stays_as_it_is(base: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(base, tmp_path / "model")
    stage.set_chat_template(configured(), folder)
    assert files.hashes(folder) == files.hashes(base)


def test_the_template_in_the_params_takes_the_place_of_the_models(
    params: Callable[..., Path], succeed: Callable[..., str], base: Path
) -> None:
    mine = (base / "chat_template.jinja").read_text(encoding="utf-8").replace("user", "human")
    folder = params({"base.chat_template": mine, "base.tiny.steps": 1}).parent
    succeed(stage.main)
    assert (folder / "models" / "base" / "chat_template.jinja").read_text(encoding="utf-8") == mine


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (
            ORIGINAL,
            "models/base/chat_template.jinja: no {% generation %} markers around the assistant's answer, so nothing "
            "says what to learn; set base.chat_template to one with them",
        ),
        (
            "{% generation %}",
            "models/base/chat_template.jinja:1: Unexpected end of template. Jinja was looking for the following "
            "tags: 'endgeneration'. The innermost block that needs to be closed is 'generation'.; mend the template",
        ),
    ],
)
def test_a_template_that_cannot_be_used_leaves_no_model(
    params: Callable[..., Path], fail: Callable[..., str], template: str, message: str
) -> None:
    folder = params({"base.chat_template": template, "base.tiny.steps": 1}).parent
    assert fail(stage.main) == message
    assert list((folder / "models").iterdir()) == []


def test_a_stop_token_in_the_params_is_added_to_the_models_own(base: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(base, tmp_path / "model")
    own = json.loads((base / "generation_config.json").read_text(encoding="utf-8"))["eos_token_id"]
    stage.set_stop_token(configured(stop_token="<|endoftext|>"), folder)
    added = Tokenizer.from_file(str(base / "tokenizer.json")).token_to_id("<|endoftext|>")
    written = json.loads((folder / "generation_config.json").read_text(encoding="utf-8"))
    assert written["eos_token_id"] == [added, own]
    assert chat.load(folder).stop_ids == {added, own}


def test_a_stop_token_that_the_model_does_not_have_is_refused(
    params: Callable[..., Path], fail: Callable[..., str]
) -> None:
    folder = params({"base.stop_token": "<|nothing|>", "base.tiny.steps": 1}).parent
    assert fail(stage.main) == "base.stop_token: '<|nothing|>' is no token of the model"
    assert list((folder / "models").iterdir()) == []


def test_a_hub_model_without_a_template_is_refused(
    model: Path, fetch: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    (model / "chat_template.jinja").unlink()
    message = f"Error: {tmp_path}/out: no chat template (chat_template.jinja); set base.chat_template"
    assert fetch("lockstep/model") == (1, message)
    assert not (tmp_path / "out").exists()
