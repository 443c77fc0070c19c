"""What the pages say that commands print, against what they print (tests/support/page_commands.py)."""

import subprocess
from pathlib import Path

import pytest
from needs import missing
from page_commands import Command, agrees, commands, printed

ROOT = Path(__file__).parents[2]
CHECKED = [command for page in sorted((ROOT / "docs").glob("*.md")) for command in commands(page)]


@pytest.mark.slow
@pytest.mark.parametrize("command", CHECKED, ids=lambda command: f"{command.page.stem}:{command.line}")
def test_a_command_prints_what_the_page_shows(command: Command) -> None:
    if not (ROOT / "models" / "awq").exists():
        missing("models")
    before = subprocess.run(["git", "status", "--porcelain"], cwd=ROOT, capture_output=True, text=True).stdout
    lines = printed(command, ROOT)
    shown = "\n".join(lines)
    assert agrees(command.shown, lines), f"{command.page.name}:{command.line} shows something else than:\n{shown}"
    after = subprocess.run(["git", "status", "--porcelain"], cwd=ROOT, capture_output=True, text=True).stdout
    assert after == before, f"{command.words} changes the checkout; it cannot be checked here"


def test_enough_is_checked() -> None:
    assert len(CHECKED) >= 10


@pytest.mark.parametrize(
    ("shown", "lines", "same"),
    [
        (["a", "b"], ["a", "b"], True),
        (["a"], ["a", "b"], False),
        (["a … c"], ["a 17 c"], True),
        (["a … c"], ["a 17 d"], False),
        (["a", "…", "d"], ["a", "b", "c", "d"], True),
        (["a", "…"], ["a"], True),
        (["…", "d"], ["a", "b"], False),
        (["a.c"], ["abc"], False),
        ([], ["a"], False),
    ],
)
def test_dots_stand_for_what_varies(shown: list[str], lines: list[str], same: bool) -> None:
    assert agrees(shown, lines) is same


@pytest.mark.slow
def test_only_marked_blocks_are_read(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "```console\n$ rm x\n```\n\n<!-- checked -->\n```console\n$ echo a\na\n$ echo b\n…\n```\n", encoding="utf-8"
    )
    found = list(commands(page))
    assert [(one.line, one.words, one.shown) for one in found] == [(7, "echo a", ["a"]), (9, "echo b", ["…"])]
    assert printed(found[0], tmp_path) == ["a"]
