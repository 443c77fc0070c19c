"""Record: a command's output as a picture, with times; what fails leaves no picture."""

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from click.testing import CliRunner
from stage_runs import ROOT

from tools import record

pytestmark = pytest.mark.slow
SPACE = "{http://www.w3.org/2000/svg}"


def texts(path: Path) -> list[str]:
    return [text.text or "" for text in ElementTree.parse(path).getroot().iter(f"{SPACE}text")]


def call(path: Path, *words: str) -> str:
    done = CliRunner().invoke(record.main, ["--out", str(path), *words])
    return done.output if done.exit_code == 0 else f"failed: {done.output}"


def test_lines_are_text_with_the_second_at_which_they_came(tmp_path: Path) -> None:
    path = tmp_path / "picture.svg"
    script = "echo '  <b>first & only</b>'; echo; sleep 1.2; echo second"
    assert "3 lines in 1 s" in call(path, "--", "sh", "-c", script)
    shown = texts(path)
    assert shown[2].startswith("$ sh -c ")
    assert shown[3:] == ["  <b>first & only</b>", "0:00", "second", "0:01"]


def test_the_middle_of_a_long_output_is_counted_and_a_long_line_cut(tmp_path: Path) -> None:
    path = tmp_path / "picture.svg"
    call(path, "--first", "1", "--last", "2", "--", "sh", "-c", "seq 1 6; printf '%0200d\\n' 7")
    assert [text for text in texts(path)[3:-2] if ":" not in text] == ["1", "… 4 more lines", "6"]
    assert max(map(len, texts(path)[3:])) == record.COLUMNS


def test_a_command_that_fails_or_says_nothing_leaves_no_picture(tmp_path: Path) -> None:
    path = tmp_path / "picture.svg"
    assert "exit code 3; nothing is recorded" in call(path, "--", "sh", "-c", "echo x; exit 3")
    assert "prints nothing" in call(path, "--", "true")
    assert "no-such-command: No such file" in call(path, "--", "no-such-command")
    assert not path.exists()


def test_the_picture_of_the_readme_is_small_and_asks_for_nothing() -> None:
    path = ROOT / "docs" / "images" / "terminal.svg"
    text = path.read_text(encoding="utf-8")
    assert len(text) < 60_000
    assert text.count("http") == 1  # the name of SVG itself
    assert "prefers-color-scheme: dark" in text
    assert ElementTree.fromstring(text).find(f"{SPACE}title") is not None
