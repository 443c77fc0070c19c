"""Chat files: a template is replaced only by one that renders the same, has no clock, and all read one tokenizer."""

import json
import shutil
from collections.abc import Callable
from datetime import date
from pathlib import Path

import click
import pytest
from tokenizers import Tokenizer

from stages.base import chat_files, marks, probes, template_date, tokenizer_class
from stages.base.params import BaseParams
from stages.common import chat, chat_template
from stages.common.params import load_params

DAY = date(2024, 7, 26)
# The templates of SmolLM2 and Phi-4, as their tokenizer_config.json has them.
SMOLLM2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou "
    "are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + "
    "message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ "
    "'<|im_start|>assistant\n' }}{% endif %}"
)
PHI_4 = (
    "{% for message in messages %}{% if (message['role'] == 'system') %}{{'<|im_start|>system<|im_sep|>' + "
    "message['content'] + '<|im_end|>'}}{% elif (message['role'] == 'user') %}{{'<|im_start|>user<|im_sep|>' + "
    "message['content'] + '<|im_end|>'}}{% elif (message['role'] == 'assistant') %}{{'<|im_start|>assistant<|im_sep|>"
    "' + message['content'] + '<|im_end|>'}}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ "
    "'<|im_start|>assistant<|im_sep|>' }}{% endif %}"
)


@pytest.fixture
def prepare(base: Path, tmp_path: Path, params: Callable[..., Path]) -> Callable[..., tuple[dict[str, object], Path]]:
    """Prepare a copy of the tiny model with another template, and give what changed, and the folder."""

    def prepare(template: str, **changes: str) -> tuple[dict[str, object], Path]:
        config = load_params(params({f"base.{key}": value for key, value in changes.items()}), "base", BaseParams)
        folder = shutil.copytree(base, tmp_path / "model")
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
        return chat_files.prepare(config, folder, folder), folder

    return prepare


def trl(name: str) -> str:
    return (chat_files.trl_folder() / f"{name}.jinja").read_text(encoding="utf-8")


def test_a_template_with_another_wording_of_the_same_text_is_found(
    prepare: Callable[..., tuple[dict[str, object], Path]],
) -> None:
    other = "{# another revision #}" + trl("qwen2_5").replace("message.role", "message['role']")
    assert other != trl("qwen2_5")
    changed, folder = prepare(other)
    assert changed == {"chat_template": {"from": "trl/qwen2_5_training", "other_text": [], "also": []}}
    assert (folder / "chat_template.jinja").read_text(encoding="utf-8") == trl("qwen2_5_training")
    assert list(chat_files.describe(changed)) == [
        "chat template: trl/qwen2_5_training, with generation markers; it renders the same text (14 conversations)"
    ]


def test_it_is_said_where_a_template_renders_other_text(
    prepare: Callable[..., tuple[dict[str, object], Path]],
) -> None:
    changed, _ = prepare(trl("qwen3"))
    other = ["reasoning", "tools", "turns"]
    assert changed == {"chat_template": {"from": "trl/qwen3_training", "other_text": other, "also": []}}
    assert "it renders other text for reasoning, tools, turns (" in next(chat_files.describe(changed))


@pytest.mark.parametrize("name", ["llama3_1", "llama3_2"])
def test_a_template_of_trl_without_a_version_with_markers_gets_ours(base: Path, name: str) -> None:
    own = template_date.fix(trl(name), DAY)
    tokenizer, _ = tokenizer_class.load(base)
    found = chat_files.find_marked(tokenizer, own, DAY, name)
    assert (found.name, found.other_text, found.also) == (f"lockstep/Llama {name[-3:].replace('_', '.')}", [], [])
    assert probes.render(tokenizer, found.text) == probes.render(tokenizer, own)


@pytest.mark.parametrize(("family", "template"), [("ChatML", SMOLLM2), ("Phi-4", PHI_4)])
def test_the_marks_hold_the_words_and_the_end_of_each_answer(
    base: Path, tmp_path: Path, family: str, template: str
) -> None:
    marked = marks.mark(template)[family]
    tokenizer, _ = tokenizer_class.load(base)
    assert probes.render(tokenizer, marked) == probes.render(tokenizer, template)
    folder = shutil.copytree(base, tmp_path / "model")
    (folder / "chat_template.jinja").write_text(marked, encoding="utf-8")
    row = {"messages": [probes.ASK, probes.ANSWER, probes.ASK_MORE, probes.ANSWER_MORE]}
    text, spans = chat.render(chat.load(folder), row)
    assert [text[first:last] for first, last in spans] == ["\n Fine. \n<|im_end|>", "Better.<|im_end|>"]


def test_marks_apply_to_no_other_template() -> None:
    assert marks.mark(trl("gemma3")) == {}
    assert not chat_template.has_markers(SMOLLM2)


@pytest.mark.parametrize(
    ("template", "fixed"),
    [
        ('{{ strftime_now("%Y-%m-%d") }}', '{{ "2024-07-26" }}'),
        ("{{ strftime_now( '%d %b %Y' ) }}", '{{ "26 Jul 2024" }}'),
        ("{% if strftime_now is defined %}1{% endif %}", "{% if true %}1{% endif %}"),
        ("{% if strftime_now  is not defined %}1{% endif %}", "{% if false %}1{% endif %}"),
        ("{{ messages }}", "{{ messages }}"),
    ],
)
def test_a_fixed_date_takes_the_place_of_the_clock(template: str, fixed: str) -> None:
    assert template_date.fix(template, DAY) == fixed


def test_a_computed_format_of_the_date_is_refused() -> None:
    with pytest.raises(click.ClickException, match=r"base\.chat_template: .*strftime_now.*base\.chat_template"):
        template_date.fix("{{ strftime_now(form) }}", DAY)


def test_the_date_is_recorded_and_rendered_by_transformers_on_every_day(
    prepare: Callable[..., tuple[dict[str, object], Path]],
) -> None:
    from transformers import AutoTokenizer

    marked = "{% for m in messages %}{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}{% endfor %}"
    template = '{{ "Current date: " + strftime_now("%Y-%m-%d") }}' + marked
    changed, folder = prepare(template, template_date="2025-08-05")
    assert changed == {"template_date": "2025-08-05"}
    messages = [{"role": "user", "content": "Hello!"}]
    text = AutoTokenizer.from_pretrained(folder).apply_chat_template(messages, tokenize=False)
    assert "Current date: 2025-08-05" in text


@pytest.mark.slow
def test_a_class_that_splits_text_otherwise_than_tokenizer_json_is_replaced(base: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    folder = shutil.copytree(base, tmp_path / "model")
    (folder / "config.json").write_text('{"model_type": "llama"}', encoding="utf-8")  # transformers asks it, too
    file = folder / "tokenizer_config.json"
    config = json.loads(file.read_text(encoding="utf-8")) | {"tokenizer_class": "LlamaTokenizerFast"}
    file.write_text(json.dumps(config), encoding="utf-8")
    expected = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(probes.TEXT, add_special_tokens=False).ids
    assert AutoTokenizer.from_pretrained(folder).encode(probes.TEXT, add_special_tokens=False) != expected
    tokenizer, replaced = tokenizer_class.load(folder)
    assert replaced == "LlamaTokenizerFast"
    assert tokenizer.encode(probes.TEXT, add_special_tokens=False) == expected
    assert AutoTokenizer.from_pretrained(folder).encode(probes.TEXT, add_special_tokens=False) == expected
    assert tokenizer_class.load(folder)[1] is None
