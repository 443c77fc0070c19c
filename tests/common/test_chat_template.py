"""Chat template: it renders in the same environment as in transformers, except for the clock."""

import json
import shutil
from pathlib import Path

import pytest
from conversations import ANSWERS, CONVERSATIONS, expect, to_row

from stages.common import chat, chat_template


def test_a_template_in_tokenizer_config_json_works_as_well(base: Path, tmp_path: Path) -> None:
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


def test_a_template_cannot_reach_the_clock(base: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(base, tmp_path / "base")
    template = "{% if strftime_now is defined %}{{ strftime_now('%d') }}{% else %}fixed{% endif %}" + ANSWERS
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    assert chat.render(chat.load(folder), to_row(CONVERSATIONS[0]))[0].startswith("fixed")


@pytest.mark.parametrize(
    ("template", "has_markers"),
    [
        ("{% generation %}{% endgeneration %}", True),
        ("{%- generation -%}{%- endgeneration -%}", True),
        ("{%generation%}{%endgeneration%}", True),
        ("{# a generation of text #}", False),
        ("{% if add_generation_prompt %}{% endif %}", False),
    ],
)
def test_generation_markers_are_found(template: str, has_markers: bool) -> None:
    assert chat_template.has_markers(template) == has_markers
