"""docs/troubleshooting.md: every message that it quotes stands in the code that prints it."""

import ast
import importlib.util
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
# The module of a library that prints the message, if it is not ours, and the message.
QUOTED = re.findall(r"(?:^<!-- ([\w.]+) -->\n)?^```text\n(.*?)\n```$", PAGE, re.MULTILINE | re.DOTALL)


def texts(path: Path) -> list[str]:
    """The texts of a Python file; what is filled in is `…`. Of other files, the lines."""
    text = path.read_text(encoding="utf-8")
    try:
        nodes = list(ast.walk(ast.parse(text)))
    except SyntaxError:
        return text.splitlines()
    parts = [node for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    joined = [
        "".join(str(one.value) if isinstance(one, ast.Constant) else "…" for one in node.values)
        for node in nodes
        if isinstance(node, ast.JoinedStr)
    ]
    return [*(str(node.value) for node in parts), *joined]


@cache
def corpus(library: str) -> list[str]:
    if not library:
        files = [path for top in ("stages", "tools", "docker") for path in (ROOT / top).rglob("*.py")]
        return [text for path in [*files, ROOT / "docker" / "run", ROOT / "Makefile"] for text in texts(path)]
    top, _, rest = library.partition(".")
    spec = importlib.util.find_spec(top)
    assert spec and spec.origin
    return texts(Path(spec.origin).parent.joinpath(*rest.split(".")).with_suffix(".py"))


@pytest.mark.parametrize(("library", "message"), QUOTED, ids=lambda part: part[:40])
def test_a_quoted_message_stands_in_the_code(library: str, message: str) -> None:
    pieces = [piece for piece in message.removeprefix("ERROR: ").split("…") if len(piece.strip(" :;()',")) >= 4]
    assert sum(map(len, pieces)) >= 20 or library, message
    missing = [piece for piece in pieces if not any(piece.strip() in text for text in corpus(library))]
    assert not missing, f"docs/troubleshooting.md quotes what no code says: {missing}"


def test_enough_is_there_and_each_has_a_cause_and_a_way_out() -> None:
    assert len(QUOTED) >= 25
    sections = re.split(r"^```text\n.*?\n```$", PAGE, flags=re.MULTILINE | re.DOTALL)[1:]
    for (_, message), section in zip(QUOTED, sections, strict=True):
        assert "**Cause.**" in section, message
        assert re.search(r"\*\*(Fix\.|Tell:)\*\*", section), message
