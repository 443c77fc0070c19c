"""Recipes: each is complete, valid for every stage and explained, and writing one changes nothing else."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import fail_in, succeed_in

from stages import awq, base, compare, eval, merge, report, train
from stages.common import checks, settings
from tools import recipe as tool
from tools.common import overlays

ROOT = Path(__file__).resolve().parents[1]
RECIPES = ROOT / "recipes"
DEFAULTS = overlays.read(RECIPES / "tiny.yaml")
NAMES = sorted(path.stem for path in RECIPES.glob("*.yaml"))
OTHERS = [name for name in NAMES if name != "tiny"]
COMMIT = "0123456789abcdef0123456789abcdef01234567"
SECTIONS: dict[str, type[settings.Section]] = {
    "base": base.BaseParams,
    "preprocess": checks.PreprocessParams,
    "train": train.TrainParams,
    "merge": merge.MergeParams,
    "awq": awq.AwqParams,
    "eval": eval.EvalParams,
    "compare": compare.CompareParams,
    "gates": report.GatesParams,
}
# From each model's config.json on the hub: the input widths of its linear layers (hidden_size, heads x head_dim,
# intermediate_size), and max_position_embeddings.
MODELS = {
    "Qwen/Qwen2.5-0.5B-Instruct": ((896, 14 * 64, 4864), 32768),
    "Qwen/Qwen2.5-7B-Instruct": ((3584, 28 * 128, 18944), 32768),
    "Qwen/Qwen3-4B-Instruct-2507": ((2560, 32 * 128, 9728), 262144),
    "meta-llama/Llama-3.2-1B-Instruct": ((2048, 32 * 64, 8192), 131072),
}


def find(name: str) -> Path:
    return RECIPES / f"{name}.yaml"


@pytest.fixture
def apply(tmp_path: Path) -> Callable[..., str]:
    """Write a recipe into a params.yaml in tmp_path, and give that file's text."""

    def apply(name: str, *options: str) -> str:
        if not (tmp_path / "params.yaml").exists():
            shutil.copy(ROOT / "params.yaml", tmp_path)
        succeed_in(tmp_path, tool.main, name, "--recipes", RECIPES, *options)
        return (tmp_path / "params.yaml").read_text(encoding="utf-8")

    return apply


def test_tiny_gives_back_the_committed_params(apply: Callable[..., str]) -> None:
    refresh = "(sed '/^$/q' recipes/tiny.yaml; sed -n '/^base:/,$p' params.yaml) > t && mv t recipes/tiny.yaml"
    committed = (ROOT / "params.yaml").read_text(encoding="utf-8")
    body = committed[committed.index("base:\n") :]
    assert (RECIPES / "tiny.yaml").read_text(encoding="utf-8").endswith(f"\n\n{body}"), refresh
    assert apply("tiny") == committed
    for name in OTHERS:
        assert apply(name) != committed
        assert apply("tiny") == committed


@pytest.mark.parametrize("name", OTHERS)
def test_a_recipe_is_whole_whatever_was_there_before(name: str, apply: Callable[..., str], tmp_path: Path) -> None:
    alone = apply(name)
    assert apply(name) == alone
    for other in OTHERS:
        apply(other)
        assert apply(name) == alone
    written, recipe = (overlays.read(path, DEFAULTS).keys for path in (tmp_path / "params.yaml", find(name)))
    assert {key: entry.value for key, entry in written.items()} == {
        key: entry.value for key, entry in (DEFAULTS.keys | recipe).items()
    }
    assert [written[key].lines for key in recipe] == [entry.lines for entry in recipe.values()]
    comments = [line for line in (ROOT / "params.yaml").read_text(encoding="utf-8").splitlines() if line[:1] == "#"]
    assert alone.splitlines()[: len(comments)] == comments


@pytest.mark.parametrize("name", NAMES)
def test_every_value_has_a_reason_and_differs_from_the_default(name: str) -> None:
    for key, entry in overlays.read(find(name), DEFAULTS).keys.items():
        reason = entry.value["reason"] if key[0] == "gates" else entry.lines[0].partition(" # ")[2]
        assert reason.strip(), key
        if name != "tiny" and key != tool.REVISION:
            assert entry.value != tool.value(DEFAULTS, key), key


@pytest.mark.parametrize("name", NAMES)
def test_every_stage_takes_a_recipe(name: str, apply: Callable[..., str], tmp_path: Path) -> None:
    import peft
    import trl

    apply(name)
    path = tmp_path / "params.yaml"
    read: dict[str, Any] = {section: settings.load(path, section, kind) for section, kind in SECTIONS.items()}
    fixed = {"output_dir": str(tmp_path), "use_cpu": True, "bf16": False}
    settings.build(path, "train.lora", read["train"].lora, peft.LoraConfig)
    settings.build(path, "train.sft", read["train"].sft, trl.SFTConfig, fixed)
    assert read["awq"].samples <= read["preprocess"].calibration_rows
    assert read["train"].batch_size % read["train"].machine.device_batch_size == 0
    if read["base"].source == "hub":
        widths, positions = MODELS[read["base"].id]
        assert [width % read["awq"].group_size for width in widths] == [0, 0, 0]
        assert read["preprocess"].max_length <= positions


def test_a_hub_recipe_waits_for_its_commit(apply: Callable[..., str], tmp_path: Path) -> None:
    command = "get the hash with `git ls-remote https://huggingface.co/Qwen/Qwen2.5-7B-Instruct HEAD`"
    apply("qwen2.5-7b")
    assert fail_in(tmp_path, base.main).endswith(
        f"is no full commit hash (40 hex digits), and a branch moves; {command}"
    )
    said = succeed_in(tmp_path, tool.main, "qwen2.5-7b", "--recipes", RECIPES)
    assert f"base.revision is still to be filled in: {command}, then `make recipe NAME=qwen2.5-7b REVISION" in said
    pinned = apply("qwen2.5-7b", "--revision", COMMIT)
    assert f"\n  revision: {COMMIT} " in pinned
    assert apply("qwen2.5-7b") == pinned  # the commit of the same model stays
    assert COMMIT in apply("qwen2.5-7b-qlora")
    assert COMMIT not in apply("qwen3-4b")
