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
from typing import TYPE_CHECKING

import click
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

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
# Anything that UTF-8 can hold: a lone surrogate is no text, and stages/common/raw.py refuses it.
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


def to_messages(turns: Turns | list[tuple[str, str]]) -> chat.Messages:
    return [{"role": role, "content": content} for role, content in turns]


def expect(reference: "PreTrainedTokenizerBase", messages: chat.Messages) -> chat.Encoded:
    """Encode with transformers."""
    encoded = reference.apply_chat_template(
        messages, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    return chat.Encoded(list(encoded["input_ids"]), list(encoded["assistant_masks"]))


@pytest.mark.parametrize("turns", CONVERSATIONS)
def test_ids_and_mask_equal_those_of_transformers(
    speaker: chat.Chat, reference: "PreTrainedTokenizerBase", turns: Turns
) -> None:
    messages = to_messages(turns)
    assert chat.encode(speaker, [messages]) == [expect(reference, messages)]


@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(RANDOM_TURNS)
def test_any_conversation_encodes_as_with_transformers(
    speaker: chat.Chat, reference: "PreTrainedTokenizerBase", turns: list[tuple[str, str]]
) -> None:
    messages = to_messages(turns)
    assert chat.encode(speaker, [messages]) == [expect(reference, messages)]


@pytest.mark.parametrize("turns", CONVERSATIONS)
def test_prompts_equal_those_of_transformers(
    speaker: chat.Chat, reference: "PreTrainedTokenizerBase", turns: Turns
) -> None:
    messages = to_messages(turns)
    expected = reference.apply_chat_template(messages, tokenize=True, add_generation_prompt=True, return_dict=True)
    assert chat.encode_prompts(speaker, [messages]) == [expected["input_ids"]]


def test_a_prompt_and_its_answer_are_the_conversation(speaker: chat.Chat) -> None:
    for turns in CONVERSATIONS[:6]:
        messages = to_messages(turns)
        whole = chat.encode(speaker, [messages])[0].ids
        prompt = chat.encode_prompts(speaker, [messages[:-1]])[0]
        assert whole[: len(prompt)] == prompt


def test_rows_encode_together_as_they_do_alone(speaker: chat.Chat) -> None:
    rows = [to_messages(turns) for turns in CONVERSATIONS]
    assert chat.encode(speaker, rows) == [chat.encode(speaker, [row])[0] for row in rows]


@pytest.mark.parametrize("turns", CONVERSATIONS)
def test_the_supervised_tokens_are_the_answers_and_their_stop_tokens(speaker: chat.Chat, turns: Turns) -> None:
    (row,) = chat.encode(speaker, [to_messages(turns)])
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
        f"chat.encode(chat.load(Path({str(base)!r})), [[{{'role': 'user', 'content': 'Hello!'}}]]);"
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
    row = to_messages(CONVERSATIONS[0])
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
    messages = to_messages(CONVERSATIONS[2])
    expected = expect(AutoTokenizer.from_pretrained(folder), messages)
    assert chat.encode(chat.load(folder), [messages]) == [expected]


def test_a_template_that_refuses_a_row_is_an_error_that_quotes_it(base: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(base, tmp_path / "base")
    template = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system role here') }}{% endif %}" + ANSWERS
    )
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    with pytest.raises(click.ClickException) as raised:
        chat.encode(chat.load(folder), [to_messages(CONVERSATIONS[1])])
    assert raised.value.message == "chat template: no system role here (in the row that starts 'Be brief.')"


def test_a_template_cannot_reach_the_clock(base: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(base, tmp_path / "base")
    template = "{% if strftime_now is defined %}{{ strftime_now('%d') }}{% else %}fixed{% endif %}" + ANSWERS
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    assert chat.render(chat.load(folder), to_messages(CONVERSATIONS[0]))[0].startswith("fixed")
