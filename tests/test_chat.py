"""Chat: token ids and loss masks are those of transformers, and the mask covers what the assistant says, all of it.

The comparison runs the real tokenizer and template through `AutoTokenizer.apply_chat_template`, by which vLLM and
TRL render conversations too.
"""

import json
import shutil
import subprocess
import sys
import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

from stages.common import chat

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
# Anything that UTF-8 can hold: a lone surrogate is no text, and stages.common.drafts drops it.
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
ANSWERS = "{% for m in messages %}{% generation %}{{ m.role + m.content }}{% endgeneration %}{% endfor %}"
RANDOM_TURNS = st.lists(
    st.tuples(st.sampled_from(["system", "user", "assistant", "tool"]), TEXTS), min_size=1, max_size=5
)


@pytest.fixture(scope="session")
def reference(base: Path) -> "PreTrainedTokenizerBase":
    """The same folder, loaded by transformers."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(base)


@pytest.fixture(scope="session")
def speaker(base: Path) -> chat.Chat:
    """The built-in model's chat side."""
    return chat.load(base)


def to_row(turns: Turns | list[tuple[str, str]]) -> chat.Row:
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


def expect(reference: "PreTrainedTokenizerBase", row: chat.Row) -> chat.Encoded:
    """Encode with transformers."""
    encoded = reference.apply_chat_template(
        row["messages"],
        tools=row.get("tools"),
        tokenize=True,
        return_dict=True,
        return_assistant_tokens_mask=True,
    )
    return chat.Encoded(list(encoded["input_ids"]), bytes(encoded["assistant_masks"]))


@pytest.mark.parametrize("turns", CONVERSATIONS)
def test_ids_and_mask_equal_those_of_transformers(
    speaker: chat.Chat, reference: "PreTrainedTokenizerBase", turns: Turns
) -> None:
    row = to_row(turns)
    assert chat.encode(speaker, [row]) == [expect(reference, row)]


@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(RANDOM_TURNS)
def test_any_conversation_encodes_as_with_transformers(
    speaker: chat.Chat, reference: "PreTrainedTokenizerBase", turns: list[tuple[str, str]]
) -> None:
    row = to_row(turns)
    assert chat.encode(speaker, [row]) == [expect(reference, row)]


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
    speaker: chat.Chat, reference: "PreTrainedTokenizerBase", tools: list[Any] | None, system: list[Any]
) -> None:
    row = {"messages": [*system, *CALLED], "tools": tools}
    (encoded,) = chat.encode(speaker, [row])
    assert encoded == expect(reference, row)
    taught = [token for token, learnt in zip(*encoded, strict=True) if learnt]
    assert speaker.tokenizer.decode(taught, skip_special_tokens=False) == (
        '<tool_call>\n{"name": "now", "arguments": {"zone": "Zürich\\n"}}\n</tool_call>\n'
        '<tool_call>\n{"name": "add", "arguments": {"b": 2.0, "a": [1, null]}}\n</tool_call><|im_end|>'
        'Noon, and 3.\n<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call><|im_end|>One past.<|im_end|>'
    )


@pytest.mark.parametrize("text", ["", "a", " Plain text\n", "😀 e\u0301", "<|im_end|>"])
def test_plain_text_is_learnt_whole_and_ends_with_the_end_token(speaker: chat.Chat, text: str) -> None:
    (encoded,) = chat.encode(speaker, [{"text": text}])
    assert encoded.ids[-1] == speaker.tokenizer.token_to_id(speaker.special["eos_token"])
    assert encoded.ids[:-1] == speaker.tokenizer.encode(text, add_special_tokens=False).ids
    assert encoded.mask == b"\1" * len(encoded.ids)


@pytest.fixture(scope="session")
def makes(base: Path, byte_base: Path) -> dict[str, Tokenizer]:
    """Tokenizers of every make: bytes, learnt pieces, words with a mark in front, words without accents."""
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


# What makes offsets overlap or vanish: several bytes or tokens a character, several characters a token, none at all.
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


@settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(parts=PARTS)
@example(parts=[("e", True), ("\u0301", False)])
@example(parts=[("e", False), ("\u0301x", True)])
@example(parts=[("😀", True)])
@example(parts=[("", True), ("a", False), ("", True)])
def test_the_mask_is_that_of_every_tokens_offsets(makes: dict[str, Tokenizer], parts: list[tuple[str, bool]]) -> None:
    text, spans = "", []
    for part, learnt in parts:
        if learnt:
            spans.append((len(text), len(text) + len(part)))
        text += part
    for name, tokenizer in makes.items():
        encoding = tokenizer.encode(text, add_special_tokens=False)
        fast, sure = chat._mask(encoding, text, spans), chat._mask_by_offsets(encoding.offsets, spans)
        assert fast == sure, name


@pytest.mark.parametrize("turns", CONVERSATIONS)
def test_prompts_equal_those_of_transformers(
    speaker: chat.Chat, reference: "PreTrainedTokenizerBase", turns: Turns
) -> None:
    row = to_row(turns)
    expected = reference.apply_chat_template(
        row["messages"], tokenize=True, add_generation_prompt=True, return_dict=True
    )
    assert chat.encode_prompts(speaker, [row]) == [expected["input_ids"]]


def test_a_prompt_and_its_answer_are_the_conversation(speaker: chat.Chat) -> None:
    for turns in CONVERSATIONS[:6]:
        row = to_row(turns)
        whole = chat.encode(speaker, [row])[0].ids
        prompt = chat.encode_prompts(speaker, [{"messages": row["messages"][:-1]}])[0]
        assert whole[: len(prompt)] == prompt


def test_rows_encode_together_as_they_do_alone(speaker: chat.Chat) -> None:
    rows = [to_row(turns) for turns in CONVERSATIONS]
    assert chat.encode(speaker, rows) == [chat.encode(speaker, [row])[0] for row in rows]


@pytest.mark.parametrize("turns", CONVERSATIONS)
def test_the_supervised_tokens_are_the_answers_and_their_stop_tokens(speaker: chat.Chat, turns: Turns) -> None:
    (row,) = chat.encode(speaker, [to_row(turns)])
    supervised = [token for token, learnt in zip(*row, strict=True) if learnt]
    text = speaker.tokenizer.decode(supervised, skip_special_tokens=False)
    expected = "".join(f"{content}<|im_end|>" for role, content in turns if role == "assistant")
    assert text == unicodedata.normalize("NFC", expected)  # as Qwen's tokenizers do
    if supervised:
        assert supervised[-1] in speaker.stop_ids


def test_the_stop_and_padding_tokens_are_the_models_own(speaker: chat.Chat, base: Path) -> None:
    config = json.loads((base / "generation_config.json").read_text(encoding="utf-8"))
    assert speaker.stop_ids == {config["eos_token_id"]} == {speaker.tokenizer.token_to_id("<|im_end|>")}
    assert speaker.pad_id == config["pad_token_id"] == speaker.tokenizer.token_to_id("<|endoftext|>")


def test_loading_and_encoding_needs_neither_torch_nor_transformers(base: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from stages.common import chat;"
        f"chat.encode(chat.load(Path({str(base)!r})), [{{'messages': [{{'role': 'user', 'content': 'Hello!'}}]}}]);"
        "sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("", "{folder}: no chat template (chat_template.jinja); set base.chat_template"),
        (
            "{{ messages[0].content }}{# a generation of text #}",
            "{folder}/chat_template.jinja: no {{% generation %}} markers around the assistant's answer, so nothing "
            "says what to learn; set base.chat_template to one with them",
        ),
        (
            "{% for m in messages %}\n{% generation %}{{ m.content }}{% endgeneration %}",
            "{folder}/chat_template.jinja:2: Unexpected end of template. Jinja was looking for the following tags: "
            "'endfor' or 'else'. The innermost block that needs to be closed is 'for'.; mend the template",
        ),
    ],
)
def test_a_template_that_cannot_say_what_to_learn_is_an_error(
    base: Path, tmp_path: Path, template: str, message: str
) -> None:
    folder = shutil.copytree(base, tmp_path / "base")
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    with pytest.raises(click.ClickException) as raised:
        chat.load(folder)
    assert raised.value.message == message.format(folder=folder)


def test_a_folder_without_tokenizer_or_stop_token_is_an_error(base: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(base, tmp_path / "base")
    (folder / "generation_config.json").unlink()
    assert chat.load(folder).stop_ids == chat.load(base).stop_ids  # the tokenizer names one, too
    (folder / "tokenizer_config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(click.ClickException) as raised:
        chat.load(folder)
    assert raised.value.message == f"{folder}: no stop token; set eos_token_id in {folder}/generation_config.json"
    (folder / "tokenizer.json").unlink()
    with pytest.raises(click.ClickException) as raised:
        chat.load(folder)
    assert raised.value.message == f"{folder}/tokenizer.json: no such file; run `dvc repro base` first"


def test_a_template_in_the_tokenizer_config_serves_as_well(base: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(base, tmp_path / "base")
    file = folder / "chat_template.jinja"
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    config["chat_template"] = file.read_text(encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    file.unlink()
    row = to_row(CONVERSATIONS[0])
    assert chat.encode(chat.load(folder), [row]) == chat.encode(chat.load(base), [row])


@pytest.mark.parametrize(
    "template",
    [
        "{{ tools is none }} {{ documents is none }} {{ bos_token is defined }} {{ eos_token }} {{ pad_token }}",
        "{{ {'key': 'ü <b>'} | tojson }} {{ {'key': 1} | tojson(indent=2) }}",
        "{% for m in messages %}{% if loop.index == 2 %}{% break %}{% endif %}{{ m.role }}{% endfor %}",
        "  {% if true %}\n  kept\n  {% endif %}\nlast\n",
        "{% generation %}first{% endgeneration %}{% generation %}second{% endgeneration %}",
    ],
)
def test_templates_render_in_the_environment_of_transformers(base: Path, tmp_path: Path, template: str) -> None:
    from transformers import AutoTokenizer

    folder = shutil.copytree(base, tmp_path / "base")
    (folder / "chat_template.jinja").write_text(template + ANSWERS, encoding="utf-8")
    row = to_row(CONVERSATIONS[2])
    expected = expect(AutoTokenizer.from_pretrained(folder), row)
    assert chat.encode(chat.load(folder), [row]) == [expected]


def test_a_template_that_refuses_a_row_is_an_error_that_quotes_it(base: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(base, tmp_path / "base")
    template = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system role here') }}{% endif %}" + ANSWERS
    )
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    with pytest.raises(click.ClickException) as raised:
        chat.encode(chat.load(folder), [to_row(CONVERSATIONS[1])])
    assert raised.value.message == "chat template: no system role here (in the row that starts 'Be brief.')"


def test_a_template_cannot_reach_the_clock(base: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(base, tmp_path / "base")
    template = "{% if strftime_now is defined %}{{ strftime_now('%d') }}{% else %}fixed{% endif %}" + ANSWERS
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    assert chat.render(chat.load(folder), to_row(CONVERSATIONS[0]))[0].startswith("fixed")
