"""Overlays: a recipe changes the lines of its own keys in params.yaml, and a mistake changes none."""

import shutil
from pathlib import Path

import pytest
from conftest import fail_in, succeed_in

from stages.common import settings
from tools import recipe as tool
from tools.common import overlays

ROOT = Path(__file__).resolve().parents[1]
RECIPES = ROOT / "recipes"
SHORT = "base:\n  source: tiny\n"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def test_your_own_settings_and_comments_stay(tmp_path: Path) -> None:
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    own = {
        '  read: ["*"] ': "  read:\n  - rows.csv\n  - more.jsonl ",
        "  files: {} ": "  files:\n    # ours\n    rows.csv:\n      format: alpaca  # as exported\n",
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
    assert settings.read_yaml(path) == settings.read_yaml(ROOT / "params.yaml")
    assert "# ours\n\n\nawq:" in last
    assert "neftune" not in last  # tiny is every default


@pytest.mark.parametrize(
    ("before", "lines", "after"),
    [
        ("a:\n  x: 1\n\n# b\nb: {}\n", ["  x: 2  # two\n"], "a:\n  x: 2  # two\n\n# b\nb: {}\n"),
        ("a:\n    x: 1 # one\n", ["  x: |-\n", "    t\n"], "a:\n    x: |-\n      t\n"),
        ("a:\n  x: |-  # text\n    t\n    # t\n\n  # y\n  y: 1\n", ["  x: 2\n"], "a:\n  x: 2\n\n  # y\n  y: 1\n"),
        ("a:\n  x: [1,\n    2]  # two\n  y: 1\n", ["  x: 2\n"], "a:\n  x: 2\n  y: 1\n"),
        ("a:\n  x:\n  - 1\n  - z: 2\n  # y\n  y: 1\n", ["  x: 2\n"], "a:\n  x: 2\n  # y\n  y: 1\n"),
        ("a:\n  x:  # none\n  y: 1\n", ["  x: 2\n"], "a:\n  x: 2\n  y: 1\n"),
        ("a:\n    # y\n    y: 1\n", ["  x: 2\n"], "a:\n    x: 2\n    # y\n    y: 1\n"),
        ("a:\n  x: 1\n  y: 1\n", None, "a:\n  y: 1\n"),
        ("a:\n  y: 1\n", None, "a:\n  y: 1\n"),
        ("a:\n  y: 1\n  x: 1", ["  x: 2\n"], "a:\n  y: 1\n  x: 2\n"),
    ],
)
def test_lines_take_the_place_of_a_keys_lines(
    before: str, lines: list[str] | None, after: str, tmp_path: Path
) -> None:
    (tmp_path / "like.yaml").write_text("a:\n  y: 1\n", encoding="utf-8")
    path = tmp_path / "settings.yaml"
    path.write_text(before, encoding="utf-8")
    document = overlays.read(path, overlays.read(tmp_path / "like.yaml"))
    assert overlays.put(document, {("a", "x"): lines}) == after


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["qwen3"], "qwen3: no such recipe; did you mean qwen3-4b? (`make recipe` lists them)"),
        (["bad"], "recipes/bad.yaml: awq.group_sise: unknown key; did you mean awq.group_size?"),
        (["flat"], "recipes/flat.yaml: train.sft: needs its keys below it, one a line"),
        (["tiny", "--revision", COMMIT], "--revision: recipes/tiny.yaml names no model of the hub; leave it out"),
        (["tiny", "--recipes", "none"], "none/tiny.yaml: no such file; run from the repository root"),
        (["debug"], "params.yaml: base.tiny: missing section"),
    ],
)
def test_mistakes_are_one_line_and_change_nothing(arguments: list[str], message: str, tmp_path: Path) -> None:
    shutil.copytree(RECIPES, tmp_path / "recipes")
    (tmp_path / "params.yaml").write_text(SHORT, encoding="utf-8")
    if wrong := {"bad": "awq:\n  group_sise: 64\n", "flat": "train:\n  sft: {max_steps: 2}\n"}.get(arguments[0]):
        (tmp_path / "recipes" / f"{arguments[0]}.yaml").write_text(wrong, encoding="utf-8")
    assert fail_in(tmp_path, tool.main, *arguments) == message
    assert (tmp_path / "params.yaml").read_text(encoding="utf-8") == SHORT


def test_without_a_name_the_recipes_are_listed() -> None:
    lines = succeed_in(ROOT, tool.main).splitlines()
    assert [line.split()[0] for line in lines] == sorted(path.stem for path in RECIPES.glob("*.yaml"))
    assert all(len(line) <= 118 for line in lines)
