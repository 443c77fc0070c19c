"""What the stage tests share: one small run of the real pipeline, made once per session, and ways to run a stage.

The run lives in one folder laid out like the repository, each stage called with its default paths. Fixtures named
after a folder (`base`, `prepared`, `adapter`, `merged`, `awq`) run their stage when a test first asks for them; tests
read these folders and write to their own `tmp_path`.
"""

import contextlib
import copy
import json
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from hub import Hub
from ruamel.yaml import YAML

pytest.register_assert_rewrite("accounting")
pytest_plugins = ["containers", "proving", "serving", "talking"]
ROOT = Path(__file__).resolve().parents[1]
# Two layers of 128, a second of pretraining: enough to run every stage, not enough to answer anything.
TINY = {
    "seed": 7,
    "vocab_size": 512,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 512,
    "steps": 10,
    "batch_size": 4,
    "block_size": 128,
    "learning_rate": 0.003,
    "initializer_range": 0.02,
}
SMALL = {
    "base.tiny": TINY,
    "preprocess.calibration_rows": 16,
    "preprocess.max_length": 256,
    "train.batch_size": 8,
    "train.machine.device_batch_size": 4,
    "train.machine.report_to": [],
    "train.lora.r": 4,
    "train.lora.lora_alpha": 8,
    "train.sft.num_train_epochs": 1,
    "train.sft.logging_steps": 2,
    "merge.batch_size": 3,
    "awq.group_size": 32,
    "awq.samples": 16,
    "awq.max_seq_length": 64,
    "eval.batch_size": 3,
    "eval.max_new_tokens": 8,
    "eval.tasks": [],
    "compare.resamples": 100,
}


def write_params(folder: Path, changes: dict[str, Any]) -> Path:
    """Write the repository's params.yaml, made small and changed by dotted keys (`...` deletes), into `folder`."""
    document = YAML(typ="safe", pure=True).load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    for dotted, value in copy.deepcopy(SMALL | changes).items():
        *parents, key = dotted.split(".")
        section = document
        for parent in parents:
            section = section[parent]
        if value is ...:
            del section[key]
        else:
            section[key] = value
    path = folder / "params.yaml"
    with path.open("w", encoding="utf-8") as file:
        YAML(typ="safe", pure=True).dump(document, file)
    return path


def succeed_in(folder: Path, main: click.Command, *arguments: str | Path) -> str:
    """Run a stage with `folder` as the working directory, and give what it printed."""
    with contextlib.chdir(folder):
        result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def fail_in(folder: Path, main: click.Command, *arguments: str | Path) -> str:
    """Run a stage that must fail with exit code 1 and no traceback, and give its error message."""
    with contextlib.chdir(folder):
        result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 1, result.output
    return result.stderr.rpartition("Error: ")[2].removesuffix("\n")


@pytest.fixture
def params(tmp_path: Path) -> Callable[..., Path]:
    """Write params.yaml into tmp_path: `params({"train.lora.r": 4})`."""
    return lambda changes=None: write_params(tmp_path, changes or {})


@pytest.fixture
def succeed(tmp_path: Path) -> Callable[..., str]:
    """Run a stage in tmp_path: `succeed(train.main, "--base", base)`."""
    return lambda main, *arguments: succeed_in(tmp_path, main, *arguments)


@pytest.fixture
def fail(tmp_path: Path) -> Callable[..., str]:
    """Run a stage in tmp_path that must fail cleanly, and give the message: `fail(train.main) == "..."`."""
    return lambda main, *arguments: fail_in(tmp_path, main, *arguments)


@pytest.fixture(scope="session")
def hub() -> Iterator[Hub]:
    """A model hub on the loopback interface, answering until the last test."""
    with Hub() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder laid out like the repository, with params and raw rows."""
    folder = tmp_path_factory.mktemp("workspace")
    write_params(folder, {})
    (folder / "data" / "raw").mkdir(parents=True)
    words = ["apple", "bear", "crow", "drill", "fork", "goat", "honey", "lemon", "milk", "nail", "plum", "rope"]
    rows = [
        {"instruction": "Write both words in capitals.", "input": f"{one} {two}", "output": f"{one} {two}".upper()}
        for one in words[:5]
        for two in words[2:]
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "data" / "raw" / "rows.jsonl").write_text(text, encoding="utf-8")
    for name in ("general", "tasks"):
        shutil.copytree(ROOT / "data" / name, folder / "data" / name)
    (folder / "requirements").mkdir()
    (folder / "requirements" / "pipeline.txt").write_text("torch==2.13.0\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def base(workspace: Path) -> Path:
    """models/base: the built-in model, small and hardly trained."""
    from stages import base as stage

    succeed_in(workspace, stage.main)
    return workspace / "models" / "base"


@pytest.fixture(scope="session")
def prepared(workspace: Path, base: Path) -> Path:
    """data/prepared: the rows of train, val and calibration, their tokens, and the manifest."""
    from stages import preprocess as stage

    succeed_in(workspace, stage.main)
    return workspace / "data" / "prepared"


@pytest.fixture(scope="session")
def adapter(workspace: Path, prepared: Path) -> Path:
    """models/adapter: a few steps of training."""
    from stages import train as stage

    succeed_in(workspace, stage.main)
    return workspace / "models" / "adapter"


@pytest.fixture(scope="session")
def merged(workspace: Path, adapter: Path) -> Path:
    """models/merged."""
    from stages import merge as stage

    succeed_in(workspace, stage.main)
    return workspace / "models" / "merged"


@pytest.fixture(scope="session")
def awq(workspace: Path, merged: Path) -> Path:
    """models/awq."""
    from stages import awq as stage

    succeed_in(workspace, stage.main)
    return workspace / "models" / "awq"


@pytest.fixture(scope="session")
def scored(workspace: Path, awq: Path) -> Path:
    """metrics: with the scores of base, merged and awq in metrics/eval."""
    from stages import eval as stage

    for name in ("base", "merged", "awq"):
        scores, answers = f"metrics/eval/{name}.json", f"metrics/eval/{name}.answers.jsonl"
        succeed_in(workspace, stage.main, "--model", f"models/{name}", "--metrics", scores, "--answers", answers)
    return workspace / "metrics"


@pytest.fixture(scope="session")
def compared(workspace: Path, scored: Path) -> Path:
    """metrics: with the answers side by side, too."""
    from stages import compare as stage

    succeed_in(workspace, stage.main)
    return scored


@pytest.fixture(scope="session")
def byte_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The chat side of a model whose every token is one byte, so that a row's length can be counted by hand."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    folder = tmp_path_factory.mktemp("byte_base")
    vocabulary = {character: index for index, character in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken("<pad>", special=True), AddedToken("<end>", special=True)])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"pad_token": "<pad>", "eos_token": "<end>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "chat_template.jinja").write_text(
        "{% if tools %}{{ 'tools:' + tools | tojson + '<end>' }}{% endif %}"
        "{% for message in messages %}{{ message.role + ':' }}{% if message.role == 'assistant' %}"
        "{% generation %}{{ message.content }}{% if message.tool_calls %}{{ message.tool_calls | tojson }}{% endif %}"
        "{{ '<end>' }}{% endgeneration %}{% else %}{{ message.content + '<end>' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}",
        encoding="utf-8",
    )
    return folder


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory, workspace: Path, scored: Path) -> tuple[Path, str, str, str]:
    """A git repository that has recorded runs: see tests/recorded.py."""
    import recorded

    return recorded.build(tmp_path_factory.mktemp("repository"), workspace, scored)
