"""Shared fixtures: one small run of the real pipeline, made once per session, and ways to run a stage.

The run lives in one folder laid out like the repository; each stage runs with its default paths. Fixtures named after
a folder (`base`, `prepared`, `adapter`, `merged`, `awq`) run their stage when the first test asks for them, in
whichever worker that is. Tests read these folders and write to their own `tmp_path`.
"""

import json
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hub import Hub
from stage_runs import ROOT, fail_in, succeed_in, write_params

if TYPE_CHECKING:
    from recorded import Recorded
    from suite import Once

pytest.register_assert_rewrite("accounting", "page_doors")
pytest_plugins = [
    "containers",
    "folder_readers",
    "noisy_model",
    "preparing",
    "proving",
    "serving",
    "smollm2",
    "suite",
]


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
def workspace(once: "Once") -> Path:
    """A folder laid out like the repository, with params and raw rows."""

    def make(shared: Path) -> str:
        folder = shared / "workspace"
        (folder / "data" / "raw").mkdir(parents=True)
        write_params(folder, {})
        words = ["apple", "bear", "crow", "drill", "fork", "goat", "honey", "lemon", "milk", "nail", "plum", "rope"]
        rows = [
            {
                "instruction": "Write both words in capitals.",
                "input": f"{one} {two}",
                "output": f"{one} {two}".upper(),
            }
            for one in words[:5]
            for two in words[2:]
        ]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / "data" / "raw" / "rows.jsonl").write_text(text, encoding="utf-8")
        for name in ("general", "tasks"):
            shutil.copytree(ROOT / "data" / name, folder / "data" / name)
        (folder / "requirements").mkdir()
        (folder / "requirements" / "pipeline.txt").write_text("torch==2.13.0\n", encoding="utf-8")
        return str(folder)

    return Path(once("workspace", make))


@pytest.fixture(scope="session")
def base(once: "Once", workspace: Path) -> Path:
    """models/base: the built-in model, small and hardly trained."""
    from stages.base import __main__ as stage

    once("base", lambda _: succeed_in(workspace, stage.main))
    return workspace / "models" / "base"


@pytest.fixture(scope="session")
def prepared(once: "Once", workspace: Path, base: Path) -> Path:
    """data/prepared: the rows of train, val and calibration, their tokens, and the manifest."""
    from stages.preprocess import __main__ as stage

    once("prepared", lambda _: succeed_in(workspace, stage.main))
    return workspace / "data" / "prepared"


@pytest.fixture(scope="session")
def adapter(once: "Once", workspace: Path, prepared: Path) -> Path:
    """models/adapter: a few steps of training."""
    from stages.train import __main__ as stage

    once("adapter", lambda _: succeed_in(workspace, stage.main))
    return workspace / "models" / "adapter"


@pytest.fixture(scope="session")
def merged(once: "Once", workspace: Path, adapter: Path) -> Path:
    """models/merged."""
    from stages.merge import __main__ as stage

    once("merged", lambda _: succeed_in(workspace, stage.main))
    return workspace / "models" / "merged"


@pytest.fixture(scope="session")
def awq(once: "Once", workspace: Path, merged: Path) -> Path:
    """models/awq."""
    from stages.awq import __main__ as stage

    once("awq", lambda _: succeed_in(workspace, stage.main))
    return workspace / "models" / "awq"


@pytest.fixture(scope="session")
def scored(once: "Once", workspace: Path, awq: Path) -> Path:
    """metrics: with the scores of base, merged and awq in metrics/eval."""
    from stages.eval import __main__ as stage

    def make(_: Path) -> None:
        for name in ("base", "merged", "awq"):
            scores, answers = f"metrics/eval/{name}.json", f"metrics/eval/{name}.answers.jsonl"
            succeed_in(workspace, stage.main, "--model", f"models/{name}", "--metrics", scores, "--answers", answers)

    once("scored", make)
    return workspace / "metrics"


@pytest.fixture(scope="session")
def compared(once: "Once", workspace: Path, scored: Path) -> Path:
    """metrics: with the answers side by side, too."""
    from stages.compare import __main__ as stage

    once("compared", lambda _: succeed_in(workspace, stage.main))
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
def repository(tmp_path_factory: pytest.TempPathFactory, once: "Once", workspace: Path, compared: Path) -> "Recorded":
    """A git repository that has recorded runs, see tests/support/recorded.py; each worker has its own copy."""
    import recorded

    def make(shared: Path) -> list[str]:
        (shared / "repository").mkdir()
        folder, *commits = recorded.build(shared / "repository", workspace, compared)
        return [str(folder), *commits]

    folder, *commits = once("repository", make)
    copy = shutil.copytree(folder, tmp_path_factory.mktemp("repository") / "copy", symlinks=True)
    return recorded.Recorded(copy, *commits)
