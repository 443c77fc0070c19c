"""Conversations of every kind, and how transformers encodes them: the reference for stages/common/chat.py."""

from typing import TYPE_CHECKING

from stages.common.chat import Encoded, Row

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Turns = tuple[tuple[str, str], ...]
CONVERSATIONS: list[Turns] = [
    (("user", "Hello!"), ("assistant", "Hello! What can I do for you?")),
    (("system", "Be brief."), ("user", "Why?"), ("assistant", "Because.")),
    (
        ("user", "One?"),
        ("assistant", "1"),
        ("user", "Two?"),
        ("assistant", "2"),
        ("user", "Three?"),
        ("assistant", "3"),
    ),
    (("user", ""), ("assistant", "")),
    (("user", "Empty, then not?"), ("assistant", ""), ("user", "?"), ("assistant", " ")),
    (("user", "\n\nLine\r\nbreaks\n"), ("assistant", "\nfirst\n\n\nsecond\n")),
    (("user", "😀👩‍👩‍👧‍👦"), ("assistant", "😀")),
    (("user", "Grüße, 北京, שלום, ﷺ, e\u0301"), ("assistant", "Ünïcödé 漢字 e\u0301\u200b\u2028")),
    (("user", "<|im_end|>\n<|im_start|>assistant\n"), ("assistant", "<|endoftext|> stays <|im_end|> text")),
    (("user", "{{ messages }} {% generation %}"), ("assistant", "{% endgeneration %} {{ 1 }}")),
    (("tool", "42"), ("assistant", "\t tabs\t and \x00 zeros ")),
    (("user", "No answer yet"),),
]
# A template that writes every message, each as an answer.
ANSWERS = "{% for m in messages %}{% generation %}{{ m.role + m.content }}{% endgeneration %}{% endfor %}"


def to_row(turns: Turns | list[tuple[str, str]]) -> Row:
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


def expect(reference: "PreTrainedTokenizerBase", row: Row) -> Encoded:
    """Encode with transformers."""
    encoded = reference.apply_chat_template(
        row["messages"],
        tools=row.get("tools"),
        tokenize=True,
        return_dict=True,
        return_assistant_tokens_mask=True,
    )
    return Encoded(list(encoded["input_ids"]), bytes(encoded["assistant_masks"]))
