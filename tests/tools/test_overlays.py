"""Overlays: the lines of a key are replaced, and every other line stays as it is."""

from pathlib import Path

import click
import pytest

from tools.recipe.overlays import read_document, replace_lines


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
def test_new_lines_replace_the_lines_of_a_key(
    before: str, lines: list[str] | None, after: str, tmp_path: Path
) -> None:
    (tmp_path / "like.yaml").write_text("a:\n  y: 1\n", encoding="utf-8")
    path = tmp_path / "settings.yaml"
    path.write_text(before, encoding="utf-8")
    document = read_document(path, read_document(tmp_path / "like.yaml"))
    assert replace_lines(document, {("a", "x"): lines}) == after


@pytest.mark.parametrize("text", ["", "- one\n", "text\n"])
def test_a_file_without_keys_is_an_error(text: str, tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(click.ClickException) as raised:
        read_document(path)
    assert raised.value.message == f"{path}: no settings; write keys and values as in params.yaml"
