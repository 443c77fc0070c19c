"""Messages of the eval stage: each problem with its exact message; nothing is written then."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from noisy_model import GENERAL, write_tokens
from ruamel.yaml import YAML

from stages.common.tokens import TokenRow
from stages.eval import __main__ as stage

TASK = {
    "task": "echo",
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"test": "text.jsonl"}},
    "test_split": "test",
    "output_type": "generate_until",
    "doc_to_text": "{{text}}",
    "doc_to_target": "{{text}}",
}
BROKEN_TASKS: dict[str, dict[str, Any]] = {
    "key.yaml": {"doc_to_txet": ""},
    "code.yaml": {"unsafe_code": True},
    "split.yaml": {"test_split": "tset"},
}
# Params and options that differ from those of a good run, and the message. {here}: the test's folder.
MESSAGES: dict[str, tuple[dict[str, Any], dict[str, str], str]] = {
    "no model": ({}, {"--model": "models/x"}, "models/x: no such file or folder; run `dvc repro` first"),
    "no val": ({}, {"--val": "x.jsonl"}, "x.jsonl: no such file or folder; run `dvc repro` first"),
    "empty val": (
        {},
        {"--val": "empty.jsonl"},
        "empty.jsonl: no rows; more data or another preprocess.val_fraction is needed",
    ),
    "no tokens": ({}, {"--tokens": "x.arrow"}, "x.arrow: no such file or folder; run `dvc repro` first"),
    "empty tokens": (
        {},
        {"--tokens": "empty.jsonl"},
        "empty.jsonl: not a token file of the preprocess stage; run `dvc repro preprocess`",
    ),
    "other number of tokens": (
        {},
        {"--tokens": "two.arrow"},
        "two.arrow: 2 rows, text.jsonl: 1; run `dvc repro preprocess`",
    ),
    "no general texts": ({}, {"--general": "x.jsonl"}, "x.jsonl: no such file; run `git checkout x.jsonl`"),
    "empty general texts": (
        {},
        {"--general": "empty.jsonl"},
        "empty.jsonl: no rows; run `git checkout empty.jsonl`",
    ),
    "a general row without text": (
        {},
        {"--general": "bad.jsonl"},
        'bad.jsonl:2: not a row like {"text": "A few words."}; fix it',
    ),
    "no task file": ({"eval.tasks": ["x.yaml"]}, {}, "eval.tasks: x.yaml: no such file"),
    "a task with an unknown key": (
        {"eval.tasks": ["key.yaml"]},
        {},
        "eval.tasks: key.yaml: TaskConfig.__init__() got an unexpected keyword argument 'doc_to_txet' (TypeError); "
        "docs/eval.md shows a task file",
    ),
    "a task without its split": (
        {"eval.tasks": ["split.yaml"]},
        {},
        "eval.tasks: split.yaml: 'tset' (KeyError); docs/eval.md shows a task file",
    ),
    "a task that runs code": (
        {"eval.tasks": ["code.yaml"]},
        {},
        "eval.tasks: echo: runs code that the model writes; use another task",
    ),
    "a task that needs a download": (
        {"eval.tasks": ["hellaswag/hellaswag.yaml"]},
        {},
        "eval.tasks: hellaswag/hellaswag.yaml: Couldn't reach 'Rowan/hellaswag' on the Hub (OfflineModeIsEnabled); "
        "only the base stage uses the network: put the rows into data/tasks (docs/eval.md)",
    ),
    "no vLLM": (
        {"eval.backend": "vllm"},
        {"VLLM_VENV": "x"},
        "{here}/x/bin/vllm: no such file; set VLLM_VENV to vLLM's environment (docs/eval.md)",
    ),
    "vLLM does not start": (
        {"eval.backend": "vllm"},
        {},
        "{here}/logs/vllm.log: vLLM did not start (ValueError - no such model); read this log",
    ),
}


@pytest.fixture
def folder(tmp_path: Path, params: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one good val row, and files that are broken."""
    import lm_eval.tasks

    params()
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "text.jsonl").write_text('{"text": "One"}\n')
    (tmp_path / "bad.jsonl").write_text('{"text": "One"}\n{"texts": "Two"}\n')
    write_tokens(tmp_path / "text.arrow", [TokenRow([1], [1])])
    write_tokens(tmp_path / "two.arrow", [TokenRow([1], [1])] * 2)
    for name, changes in BROKEN_TASKS.items():
        with (tmp_path / name).open("w", encoding="utf-8") as file:
            YAML(typ="safe").dump(TASK | changes, file)
    shutil.copytree(Path(lm_eval.tasks.__file__).parent / "hellaswag", tmp_path / "hellaswag")
    command = tmp_path / "venv" / "bin" / "vllm"
    command.parent.mkdir(parents=True)
    command.write_text("#!/bin/sh\necho 'ValueError - no such model'\necho bye\nexit 1\n", encoding="utf-8")
    command.chmod(0o755)
    monkeypatch.setenv("VLLM_VENV", str(tmp_path / "venv"))
    (tmp_path / "logs").mkdir()
    monkeypatch.setenv("LOG_FOLDER", str(tmp_path / "logs"))
    return tmp_path


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, marks=[pytest.mark.slow] if case == "vLLM does not start" else []) for case in MESSAGES],
)
def test_a_problem_is_named_and_nothing_is_written(
    folder: Path,
    params: Callable[..., Path],
    fail: Callable[..., str],
    base: Path,
    case: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    changes, options, message = MESSAGES[case]
    params(changes)
    options = {
        "--model": str(base),
        "--val": "text.jsonl",
        "--tokens": "text.arrow",
        "--general": str(GENERAL),
    } | options
    if environment := options.pop("VLLM_VENV", None):
        monkeypatch.setenv("VLLM_VENV", str(folder / environment))
    before = sorted(path.name for path in folder.iterdir())
    outputs = ("--metrics", "scores.json", "--answers", "answers.jsonl")
    given = [part for option in options.items() for part in option]
    assert fail(stage.main, *given, *outputs) == message.replace("{here}", str(folder))
    assert sorted(path.name for path in folder.iterdir()) == before
