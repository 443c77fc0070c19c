"""Chat templates of the recipes: TRL has versions with markers of some, and the base stage marks the others."""

import shutil
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from stages.base import marks, template_date
from stages.common import chat, chat_template

DAY = date(2024, 7, 26)
ASK, SYSTEM = {"role": "user", "content": " 2 + 2? "}, {"role": "system", "content": "Be brief.\n"}
ANSWER = {"role": "assistant", "content": "It is 4.\n"}
CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 2, "b": "ü"}}}
CALLED = [{"role": "assistant", "content": "", "tool_calls": [CALL]}, {"role": "tool", "content": "4"}]
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}


def templates() -> Path:
    """Return TRL's folder of chat templates: the models' own, and versions with markers."""
    import trl

    return Path(trl.__file__).parent / "chat_templates"


@pytest.mark.parametrize("name", ["deepseek_r1_distill", "gemma3", "qwen2_5", "qwen3_instruct_2507"])
def test_trl_has_a_version_with_markers_where_a_recipe_has_none(name: str) -> None:
    original, marked = (templates() / f"{name}{kind}.jinja" for kind in ("", "_training"))
    assert not chat_template.has_markers(original.read_text(encoding="utf-8"))
    assert chat_template.has_markers(marked.read_text(encoding="utf-8"))
    assert not (templates() / "llama3_2_training.jinja").exists()  # else stages/base/marks.yaml needs no Llama


@pytest.mark.parametrize("tools", [None, [TOOL]], ids=["plain", "tools"])
@pytest.mark.parametrize("start", [[ASK], [SYSTEM, ASK]], ids=["alone", "system"])
@pytest.mark.parametrize("rest", [[], [ANSWER], [ANSWER, ASK, ANSWER], [*CALLED, ANSWER]])
def test_the_template_for_llama_renders_the_same_text_as_the_models_own(
    byte_base: Path, tmp_path: Path, tools: Any, start: list[Any], rest: list[Any]
) -> None:
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(byte_base / "tokenizer.json"), bos_token="<pad>")
    original = (templates() / "llama3_2.jinja").read_text(encoding="utf-8")
    given: dict[str, Any] = {"tools": tools, "add_generation_prompt": not rest, "tokenize": False}
    marked = marks.mark(template_date.fix(original, DAY))["Llama 3.2"]
    expected = tokenizer.apply_chat_template(start + rest, chat_template=original, date_string="26 Jul 2024", **given)
    assert tokenizer.apply_chat_template(start + rest, chat_template=marked, **given) == expected

    folder = shutil.copytree(byte_base, tmp_path / "base")
    (folder / "chat_template.jinja").write_text(marked, encoding="utf-8")
    text, spans = chat.render(chat.load(folder), {"messages": start + rest, "tools": tools}, prompt=not rest)
    assert "<pad>" + text == expected  # the tokenizer of these tests has no opening token
    answers = [
        '{"name": "add", "parameters": {"a": 2, "b": "ü"}}' if "tool_calls" in turn else "It is 4."
        for turn in rest
        if turn["role"] == "assistant"
    ]
    assert [text[first:last] for first, last in spans] == [f"{answer}<|eot_id|>" for answer in answers]
