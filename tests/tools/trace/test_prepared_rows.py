"""Prepared rows: their text, and how words are found in it."""

from pathlib import Path

from trace_project import write_rows

from tools.common.terminal import visible
from tools.trace.prepared_rows import find_rows, messages


def test_what_controls_the_terminal_is_escaped() -> None:
    assert visible("a\x1b[31mb\u202ec\x9bd é漢🎉") == "a\\x1b[31mb\\u202ec\\x9bd é漢🎉"


def test_tool_calls_and_plain_text_are_text_of_a_row(tmp_path: Path) -> None:
    call = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Oslo"}}}
    row = {"messages": [{"role": "assistant", "content": "", "tool_calls": [call]}]}
    assert "weather" in next(messages(row))[1]
    assert "Oslo" in next(messages(row))[1]
    write_rows(tmp_path / "rows.jsonl", [row, {"text": "in Oslo"}])
    assert find_rows(tmp_path / "rows.jsonl", ["oslo"], 5) == [0, 1]
    assert find_rows(tmp_path / "rows.jsonl", ["in", "oslo"], 5) == [1]
