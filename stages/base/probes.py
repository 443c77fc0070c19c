"""Probe conversations and text: what two templates or tokenizers must agree about before one replaces the other."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from jinja2 import TemplateError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Ordinary and unusual text: digits, blanks, tabs, line breaks, code, accents, emoji, other scripts, contractions.
TEXT = (
    "Hello, World!  It's 12345 + 6.7 = ?\n\n\tdef f(x):\n        return x  # éü 你好 世界 😀 e\u0301 \u200b don't "
    "WE'LL שלום\r\n  end \n"
)
SYSTEM = {"role": "system", "content": "Be brief.\n"}
ASK, ASK_MORE = {"role": "user", "content": " Hi there.\n"}, {"role": "user", "content": "And now?"}
ANSWER, ANSWER_MORE = {"role": "assistant", "content": "\n Fine. \n"}, {"role": "assistant", "content": "Better."}
THOUGHT = {"reasoning_content": "Hm.\n", "reasoning": "Hm.\n", "thinking": "Hm.\n"}
REASONED = {"role": "assistant", "content": "Fine."} | THOUGHT
FUNCTION = {"name": "add", "arguments": {"a": 2, "b": "ü", "c": [1, {"d": None}]}}
# Some templates want ids of nine characters.
CALL = {"id": "abcdefghi", "type": "function", "function": FUNCTION}
RESULT = {"role": "tool", "content": "4", "tool_call_id": "abcdefghi", "name": "add"}
TOOL = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Add.",
        "parameters": {"type": "object", "properties": {"a": {"type": "integer", "description": "one"}}},
    },
}


def _calls(content: str | None, *calls: Any, **more: str) -> dict[str, Any]:
    return {"role": "assistant", "content": content, "tool_calls": list(calls), **more}


class Probe(NamedTuple):
    """One conversation.

    Attributes:
        kind: what it is about: plain, system, turns, tools or reasoning.
        messages: the conversation.
        tools: definitions of tools.
    """

    kind: str
    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None = None


PROBES = (
    Probe("plain", [ASK, ANSWER]),
    Probe("plain", [ASK]),
    Probe("system", [SYSTEM, ASK, ANSWER]),
    Probe("turns", [ASK, ANSWER, ASK_MORE, ANSWER_MORE]),
    Probe("turns", [SYSTEM, ASK, ANSWER, ASK_MORE]),
    Probe("tools", [SYSTEM, ASK, ANSWER], [TOOL]),
    Probe("tools", [ASK, _calls("", CALL)], [TOOL]),
    Probe("tools", [ASK, _calls("", CALL), RESULT], [TOOL]),
    Probe("tools", [ASK, _calls(None, CALL), RESULT, ANSWER], [TOOL, TOOL]),
    Probe("tools", [SYSTEM, ASK, _calls("Wait.", CALL), RESULT, ANSWER, ASK_MORE, ANSWER_MORE], [TOOL]),
    Probe("tools", [ASK, _calls("", CALL, CALL), RESULT, RESULT, ANSWER], [TOOL]),
    Probe("reasoning", [ASK, REASONED]),
    Probe("reasoning", [ASK, REASONED, ASK_MORE, REASONED]),
    Probe("reasoning", [ASK, _calls("", CALL, **THOUGHT), RESULT, REASONED], [TOOL]),
)


def render(tokenizer: "PreTrainedTokenizerBase", template: str) -> list[str | None]:
    """Render every probe with transformers, whole and as a prompt.

    Args:
        tokenizer: for its special tokens.
        template: a chat template; generation markers leave no text.

    Returns:
        Two texts per probe; None where the template refuses the conversation.
    """
    texts: list[str | None] = []
    for probe in PROBES:
        for prompt in (False, True):
            try:
                text = tokenizer.apply_chat_template(
                    probe.messages,
                    tools=probe.tools,
                    chat_template=template,
                    add_generation_prompt=prompt,
                    tokenize=False,
                )
                texts.append(str(text))
            except (TemplateError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
                texts.append(None)
    return texts


def differences(texts: list[str | None], others: list[str | None]) -> list[str]:
    """Return the kinds of the probes for which a template's text differs from the model's own, sorted.

    Args:
        texts: what the model's own template renders. Those that it refuses are not compared.
        others: what the other template renders.
    """
    return _kinds(texts, others, lambda text, other: text is not None and text != other)


def additions(texts: list[str | None], others: list[str | None]) -> list[str]:
    """Return the kinds of the probes that the model's own template refuses and the other one renders, sorted."""
    return _kinds(texts, others, lambda text, other: text is None and other is not None)


def _kinds(
    texts: list[str | None], others: list[str | None], matters: Callable[[str | None, str | None], bool]
) -> list[str]:
    kinds = [probe.kind for probe in PROBES for _ in range(2)]
    return sorted({kind for kind, text, other in zip(kinds, texts, others, strict=True) if matters(text, other)})
