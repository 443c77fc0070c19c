"""Options of vLLM: an allow-list by name, type and key, which agrees with the parser of the installed vLLM."""

import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import click
import pytest
from needs import missing
from stage_runs import DEFAULTS, ROOT

from stages.common.params import read_yaml
from stages.eval.params import EvalParams
from stages.eval.vllm_server import SETTINGS, running
from tools.serve.__main__ import with_problems
from tools.serve.params import load_serve_params
from tools.serve.proof import Model
from tools.serve.vllm_command import vllm_arguments
from tools.serve.vllm_options import OPTIONS, OWN, Word, own_options, unsafe_options

# What the guard of v0.1.0 let pass, as it compared whole keys with those of a list.
PASSED_BEFORE = {
    "the beginning of a name": ("trust_remote", True),
    "the beginning of another": ("middlewar", "trap.spring"),
    "a name with its value": ("middleware=trap.spring", None),
    "a part of a dictionary": ("hf_overrides.architectures", ["x"]),
    "a beginning with dashes": ("tool-parser-plug", "trap.py"),
    "a newer option": ("model_class_overrides", {"Qwen2ForCausalLM": "trap:Model"}),
    "an option in a value": ("tool_call_parser", "--trust-remote-code"),
    "a class": ("distributed_executor_backend", "trap.Executor"),
    "a class in a dictionary": ("compilation_config", {"backend": "trap.compile"}),
    "another model": ("speculative_config", {"method": "eagle", "model": "x"}),
    "a template": ("default_chat_template_kwargs", {"chat_template": "{{ x }}"}),
    "a folder": ("generation_config", "/elsewhere"),
    "a port": ("data_parallel_rpc_port", 9999),
    "another host": ("kv_transfer_config", {"kv_connector": "P2pNcclConnector"}),
    "a file that is written": ("profiler_config", {"torch_profiler_dir": "/elsewhere"}),
    "other weights": ("quantization", "fp8"),
}


def params_file(tmp_path: Path, key: str, value: Any) -> Path:
    document = read_yaml(DEFAULTS)
    document["serve"]["vllm"][key] = value
    path = tmp_path / "params.yaml"
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


@pytest.mark.parametrize("case", PASSED_BEFORE)
def test_what_is_not_listed_is_refused(tmp_path: Path, case: str) -> None:
    key, value = PASSED_BEFORE[case]
    with pytest.raises(click.ClickException) as raised:
        load_serve_params(params_file(tmp_path, key, value))
    name = key.replace("-", "_")
    assert raised.value.message.startswith(f"{tmp_path / 'params.yaml'}: serve.vllm.{name}")
    assert "delete" in raised.value.message.splitlines()[-1]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("max_num_seq", 8, "max_num_seq: not an option that is known to be safe; did you mean max_num_seqs?"),
        ("max_num_batched_tokens", "x", "max_num_batched_tokens: must be an integer (got 'x')"),
        ("async_scheduling", 1, "async_scheduling: must be true or false (got 1)"),
        ("stream_interval", True, "stream_interval: must be an integer (got True)"),
        ("performance_mode", "best", "performance_mode: must be balanced, interactivity, throughput (got 'best')"),
        (
            "limit_mm_per_prompt",
            {"images": 1},
            "limit_mm_per_prompt.images: not a key that is known to be safe; did you mean image?",
        ),
        ("limit_mm_per_prompt", 1, "limit_mm_per_prompt: must be keys with values (got 1)"),
    ],
)
def test_the_message_names_key_and_near_names(tmp_path: Path, key: str, value: Any, message: str) -> None:
    path = params_file(tmp_path, key, value)
    with pytest.raises(click.ClickException) as raised:
        load_serve_params(path)
    first, _, rest = raised.value.message.partition("\n")
    close = first.startswith(f"{path}: serve.vllm.{message.removesuffix('?')}")
    assert close, first
    assert rest == (
        "correct or delete it, or serve with it by `FORCE=1`, under a name that ends in -unproven (docs/serve.md "
        "lists the options)"
    )


def test_force_takes_it_and_no_model_is_proven_with_it(tmp_path: Path) -> None:
    params, problems = load_serve_params(params_file(tmp_path, "trust-remote-code", True), force=True)
    assert "--trust-remote-code" in vllm_arguments(params, "x", {})
    model = Model("awq", Path("models/awq"), None, "1a2b3c4d5e")
    assert with_problems(model, problems).name == "lockstep-awq-1a2b3c4d-unproven"
    assert with_problems(model, load_serve_params(DEFAULTS)[1]).name == "lockstep-awq-1a2b3c4d"


@pytest.mark.parametrize(
    "key", [*sorted(OWN), "served_model_n", "no_enable_lora", "api-key", "uds=x", "port.x", "mod"]
)
def test_keys_that_serve_sets_are_refused_even_with_force(tmp_path: Path, key: str) -> None:
    with pytest.raises(click.ClickException, match="delete the line"):
        load_serve_params(params_file(tmp_path, key, "x"), force=True)


def test_a_key_that_is_there_twice(tmp_path: Path) -> None:
    with pytest.raises(click.ClickException, match="max_num_seqs is there twice"):
        load_serve_params(params_file(tmp_path, "max-num-seqs", 8))


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.yaml")), ids=str)
def test_our_own_settings_are_all_listed(path: Path) -> None:
    settings = read_yaml(path).get("serve", {}).get("vllm", {})
    assert not own_options(settings) + list(unsafe_options(settings))


def test_eval_has_no_settings_of_vllm() -> None:
    """Its server gets the options in stages/eval/vllm_server.py and no other."""
    assert not [key for key, field in EvalParams.model_fields.items() if field.annotation in (dict, dict[str, Any])]


TRAP = """
from pathlib import Path
Path(__file__).with_suffix(".sprung").touch()
"""


@pytest.mark.slow
def test_an_abbreviation_that_passed_before_runs_code_in_vllm_and_is_refused_now(base: Path, tmp_path: Path) -> None:
    """The old guard knew tool_parser_plugin as a whole word; argparse takes the beginning of a word, too."""
    trap = tmp_path / "trap.py"
    trap.write_text(TRAP, encoding="utf-8")
    settings = {"tool_parser_plug": str(trap)}
    options = vllm_arguments(load_serve_params(DEFAULTS)[0].model_copy(update={"vllm": settings}), "x", {})
    command = [str(vllm_python().with_name("vllm")), "serve", str(base), "--uds", str(tmp_path / "uds"), *options]
    with running(command, os.environ | SETTINGS, tmp_path / "vllm.log") as process:
        end = time.monotonic() + 300
        while not trap.with_suffix(".sprung").exists() and process.poll() is None and time.monotonic() < end:
            time.sleep(0.2)
    assert trap.with_suffix(".sprung").exists(), (tmp_path / "vllm.log").read_text(encoding="utf-8")[-3000:]
    with pytest.raises(click.ClickException, match="tool_parser_plug: not an option"):
        load_serve_params(params_file(tmp_path, "tool_parser_plug", str(trap)))


def vllm_python() -> Path:
    python = Path(os.environ.get("VLLM_VENV", ROOT / ".serve" / "vllm")) / "bin" / "python"
    if not python.exists():
        missing("serving")
    return python


PARSE = """
import json, sys
from argparse import BooleanOptionalAction
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.utils.argparse_utils import FlexibleArgumentParser
parser = make_arg_parser(FlexibleArgumentParser())
parser.error = lambda message: (_ for _ in ()).throw(ValueError(message))
known = {word: action for action in parser._actions for word in action.option_strings}
found = {}
for name, words in json.load(sys.stdin).items():
    action = known.get("--" + name.replace("_", "-"))
    if action is None:
        found[name] = None
        continue
    found[name] = {"switch": isinstance(action, BooleanOptionalAction), "parsed": []}
    for word in words:
        try:
            value = getattr(parser.parse_args(["folder", word]), action.dest)
            value = value if isinstance(value, (bool, int, float, str, type(None))) else "object"
        except Exception:
            value = "refused"
        found[name]["parsed"].append(value)
print("FOUND" + json.dumps(found))
"""


def samples(name: str) -> list[tuple[Any, Any]]:
    """Values of the listed type with what vLLM's parser makes of them, and one that it refuses."""
    kind = OPTIONS[name]
    if kind is bool:
        return [(True, True), (False, False)]
    if isinstance(kind, tuple):  # vLLM reads auto as -1
        return [(8, 8), ("auto", -1), ("x", "refused")]
    if isinstance(kind, Word):
        return [(word, word) for word in kind.choices or ("hermes",)]
    if isinstance(kind, dict):
        return [({}, "object"), ("x", "refused")]
    return [(8, 8), ("x", "refused")] if kind is int else [(0.5, 0.5), ("x", "refused")]


@pytest.mark.slow
def test_the_installed_vllm_knows_every_listed_option_with_its_type() -> None:
    python = vllm_python()
    params, _ = load_serve_params(DEFAULTS)
    asked = {
        name: [
            vllm_arguments(params.model_copy(update={"vllm": {name: value}}), "x", {})[-1]
            for value, _ in samples(name)
        ]
        for name in OPTIONS
    }
    asked |= {name: [] for name in OWN}
    done = subprocess.run(
        [str(python), "-c", PARSE], input=json.dumps(asked), capture_output=True, text=True, timeout=300
    )
    found = json.loads(done.stdout.partition("FOUND")[2] or "null")
    assert found, done.stderr[-3000:]
    assert [name for name, facts in found.items() if facts is None] == []
    expected = {
        name: {"switch": OPTIONS[name] is bool, "parsed": [result for _, result in samples(name)]} for name in OPTIONS
    }
    assert {name: found[name] for name in OPTIONS} == expected


def test_the_list_is_complete_in_the_docs() -> None:
    text = (ROOT / "docs" / "serve.md").read_text(encoding="utf-8")
    assert [name for name in OPTIONS if f"`{name}`" not in text] == []
