"""Chat: token ids and loss masks equal those of transformers, and the mask covers the assistant's answers.

The comparison runs the real tokenizer and template through `AutoTokenizer.apply_chat_template`, which vLLM and TRL
also use to render conversations.
"""

import json
import shutil
import subprocess
import sys
import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from conversations import CONVERSATIONS, Turns, expect, to_row
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

from stages.common import chat

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Any text that UTF-8 can encode: preprocess drops a row with a lone surrogate.
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
RANDOM_TURNS = st.lists(
    st.tuples(st.sampled_from(["system", "user", "assistant", "tool"]), TEXTS), min_size=1, max_size=5
)


@pytest.fixture(scope="session")
def reference(base: Path) -> "PreTrainedTokenizerBase":
    """The same folder, loaded by transformers."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(base)


@pytest.fixture(scope="session")
def chat_tokenizer(base: Path) -> chat.ChatTokenizer:
    """The tiny model's tokenizer and chat template."""
    return chat.load(base)


@pytest.mark.parametrize("turns", CONVERSATIONS)
def test_ids_and_mask_equal_those_of_transformers(
    chat_tokenizer: chat.ChatTokenizer, reference: "PreTrainedTokenizerBase", turns: Turns
) -> None:
    row = to_row(turns)
    assert chat.encode(chat_tokenizer, [row]) == [expect(reference, row)]


@pytest.mark.slow
@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(RANDOM_TURNS)
def test_random_conversations_encode_as_with_transformers(
    chat_tokenizer: chat.ChatTokenizer, reference: "PreTrainedTokenizerBase", turns: list[tuple[str, str]]
) -> None:
    row = to_row(turns)
    assert chat.encode(chat_tokenizer, [row]) == [expect(reference, row)]


TOOLS = [
    {
        "type": "function",
        "function": {"name": "now", "description": 'Tell the time, as <hh:mm> "Ü"', "parameters": {}},
    },
    {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {"a": {}}}}},
]


def call(name: str, **arguments: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


CALLED = [
    {"role": "user", "content": "What time is it, and what is 1 + 2?"},
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [call("now", zone="Zürich\n"), call("add", b=2.0, a=[1, None])],
    },
    {"role": "tool", "content": "12:00"},
    {"role": "tool", "content": "3"},
    {"role": "assistant", "content": "Noon, and 3.", "tool_calls": [call("now")]},
    {"role": "tool", "content": "12:01"},
    {"role": "assistant", "content": "One past."},
]


@pytest.mark.parametrize("system", [[], [{"role": "system", "content": "Be brief."}]], ids=["", "system"])
@pytest.mark.parametrize("tools", [None, [], TOOLS[:1], TOOLS], ids=["none", "empty", "one", "two"])
def test_tools_and_their_calls_encode_as_with_transformers(
    chat_tokenizer: chat.ChatTokenizer,
    reference: "PreTrainedTokenizerBase",
    tools: list[Any] | None,
    system: list[Any],
) -> None:
    row = {"messages": [*system, *CALLED], "tools": tools}
    (encoded,) = chat.encode(chat_tokenizer, [row])
    assert encoded == expect(reference, row)
    in_loss = [token for token, on in zip(*encoded, strict=True) if on]
    assert chat_tokenizer.tokenizer.decode(in_loss, skip_special_tokens=False) == (
        '<tool_call>\n{"name": "now", "arguments": {"zone": "Zürich\\n"}}\n</tool_call>\n'
        '<tool_call>\n{"name": "add", "arguments": {"b": 2.0, "a": [1, null]}}\n</tool_call><|im_end|>'
        'Noon, and 3.\n<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call><|im_end|>One past.<|im_end|>'
    )


@pytest.mark.parametrize("text", ["", "a", " Plain text\n", "😀 e\u0301", "<|im_end|>"])
def test_plain_text_is_in_the_loss_and_ends_with_the_end_token(chat_tokenizer: chat.ChatTokenizer, text: str) -> None:
    (encoded,) = chat.encode(chat_tokenizer, [{"text": text}])
    assert encoded.ids[-1] == chat_tokenizer.tokenizer.token_to_id(chat_tokenizer.special["eos_token"])
    assert encoded.ids[:-1] == chat_tokenizer.tokenizer.encode(text, add_special_tokens=False).ids
    assert encoded.mask == b"\1" * len(encoded.ids)


@pytest.fixture(scope="session")
def tokenizers(base: Path, byte_base: Path) -> dict[str, Tokenizer]:
    """Tokenizers of every kind: bytes, BPE pieces, words with a mark in front, words without accents."""
    text = ["The quick brown fox jumps over the lazy dog", "Grüße aus Zürich", "one two three four five"]
    marked = Tokenizer(models.BPE(unk_token="<unk>"))
    marked.pre_tokenizer = pre_tokenizers.Metaspace()
    marked.train_from_iterator(
        text, trainers.BpeTrainer(vocab_size=80, special_tokens=["<unk>"], show_progress=False)
    )
    plain = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    plain.normalizer, plain.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    plain.train_from_iterator(
        text, trainers.WordPieceTrainer(vocab_size=80, special_tokens=["[UNK]"], show_progress=False)
    )
    return {
        "bytes": Tokenizer.from_file(str(byte_base / "tokenizer.json")),
        "pieces": Tokenizer.from_file(str(base / "tokenizer.json")),
        "marked": marked,
        "plain": plain,
    }


# Text with overlapping or missing offsets: several tokens per character, several characters per token, no token.
ODD = [
    "😀",
    "👩\u200d👧",
    "e\u0301",
    "\u0301",
    "é",
    "ﷺ",
    "漢",
    "ﬁ",
    "\u200b",
    "\0",
    "\n\n",
    "  ",
    "<end>",
    "<|im_end|>",
    "the fox",
]
PARTS = st.lists(
    st.tuples(st.lists(st.sampled_from(ODD) | TEXTS, max_size=3).map("".join), st.booleans()), max_size=5
)


@pytest.mark.slow
@settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(parts=PARTS)
@example(parts=[("e", True), ("\u0301", False)])
@example(parts=[("e", False), ("\u0301x", True)])
@example(parts=[("😀", True)])
@example(parts=[("", True), ("a", False), ("", True)])
def test_the_mask_equals_that_from_the_offsets_of_every_token(
    tokenizers: dict[str, Tokenizer], parts: list[tuple[str, bool]]
) -> None:
    text, spans = "", []
    for part, in_loss in parts:
        if in_loss:
            spans.append((len(text), len(text) + len(part)))
        text += part
    for name, tokenizer in tokenizers.items():
        encoding = tokenizer.encode(text, add_special_tokens=False)
        assert chat._mask(encoding, text, spans) == chat._mask_by_offsets(encoding.offsets, spans), name


@pytest.mark.parametrize("turns", CONVERSATIONS)
def test_prompts_equal_those_of_transformers(
    chat_tokenizer: chat.ChatTokenizer, reference: "PreTrainedTokenizerBase", turns: Turns
) -> None:
    row = to_row(turns)
    expected = reference.apply_chat_template(
        row["messages"], tokenize=True, add_generation_prompt=True, return_dict=True
    )
    assert chat.encode_prompts(chat_tokenizer, [row]) == [expected["input_ids"]]


def test_a_conversation_starts_with_the_prompt_of_its_last_answer(chat_tokenizer: chat.ChatTokenizer) -> None:
    for turns in CONVERSATIONS[:6]:
        row = to_row(turns)
        ids = chat.encode(chat_tokenizer, [row])[0].ids
        prompt = chat.encode_prompts(chat_tokenizer, [{"messages": row["messages"][:-1]}])[0]
        assert ids[: len(prompt)] == prompt


def test_rows_encode_alike_alone_and_in_a_batch(chat_tokenizer: chat.ChatTokenizer) -> None:
    rows = [to_row(turns) for turns in CONVERSATIONS]
    assert chat.encode(chat_tokenizer, rows) == [chat.encode(chat_tokenizer, [row])[0] for row in rows]


@pytest.mark.parametrize("turns", CONVERSATIONS)
def test_the_supervised_tokens_are_the_answers_and_their_stop_tokens(
    chat_tokenizer: chat.ChatTokenizer, turns: Turns
) -> None:
    (row,) = chat.encode(chat_tokenizer, [to_row(turns)])
    supervised = [token for token, on in zip(*row, strict=True) if on]
    text = chat_tokenizer.tokenizer.decode(supervised, skip_special_tokens=False)
    expected = "".join(f"{content}<|im_end|>" for role, content in turns if role == "assistant")
    assert text == unicodedata.normalize("NFC", expected)  # as Qwen's tokenizers do
    if supervised:
        assert supervised[-1] in chat_tokenizer.stop_ids


def test_the_stop_and_padding_tokens_are_the_models_own(chat_tokenizer: chat.ChatTokenizer, base: Path) -> None:
    config = json.loads((base / "generation_config.json").read_text(encoding="utf-8"))
    assert chat_tokenizer.stop_ids == {config["eos_token_id"]} == {chat_tokenizer.tokenizer.token_to_id("<|im_end|>")}
    assert chat_tokenizer.pad_id == config["pad_token_id"] == chat_tokenizer.tokenizer.token_to_id("<|endoftext|>")


def test_the_stop_token_may_come_from_the_tokenizer(base: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(base, tmp_path / "base")
    (folder / "generation_config.json").unlink()
    assert chat.load(folder).stop_ids == chat.load(base).stop_ids


@pytest.mark.slow
def test_loading_and_encoding_needs_neither_torch_nor_transformers(base: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from stages.common import chat;"
        f"chat.encode(chat.load(Path({str(base)!r})), [{{'messages': [{{'role': 'user', 'content': 'Hello!'}}]}}]);"
        "sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
