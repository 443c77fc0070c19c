"""Control tokens: what a text may not have, because the tokenizer reads it as a role or as the end of a turn.

Not every tokenizer marks them all as special. Those that the template itself writes around messages are found by
rendering: DeepSeek's `<｜User｜>`, say.
"""

import re
from typing import Any

from stages.common import chat
from stages.common.chat import ChatTokenizer

_CALL = {"type": "function", "function": {"name": "a", "arguments": {"b": "c"}}}
_TOOL = {"type": "function", "function": {"name": "a", "description": "d", "parameters": {"type": "object"}}}
_SYSTEM, _USER, _ANSWER = ({"role": role, "content": "a"} for role in ("system", "user", "assistant"))
_CALLED = [{"role": "assistant", "content": "", "tool_calls": [_CALL]}, {"role": "tool", "content": "a"}]
PROBES: tuple[dict[str, Any], ...] = (
    {"messages": [_USER]},
    {"messages": [_USER, _ANSWER, _USER, _ANSWER]},
    {"messages": [_SYSTEM, _USER, _ANSWER]},
    {"messages": [_USER, *_CALLED, _ANSWER], "tools": [_TOOL]},
)
# Rows hold reasoning and calls also as text in this notation, and templates read it there.
NOTATION = re.compile(r"</?(think|tool|function|parameter|arg)[a-z_]*>")


def find_control_tokens(chat_tokenizer: ChatTokenizer) -> list[str]:
    """List the special tokens of a tokenizer, and its added tokens that the template writes by itself."""
    added = chat_tokenizer.tokenizer.get_added_tokens_decoder().values()
    texts = []
    for probe in PROBES:
        for prompt in (False, True):
            try:
                texts.append(chat.render(chat_tokenizer, probe, prompt=prompt)[0])
            except chat.Refused:  # such as tools or a system message
                continue
    written = "\0".join(texts)
    return [
        token.content
        for token in added
        if token.special or (token.content.strip() and token.content in written and not NOTATION.match(token.content))
    ]
