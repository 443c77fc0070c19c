"""Settings of a chat template are part of it: no server has to send them, and no request can change them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
import served

from stages.base import template_kwargs
from stages.common import chat

ASK = {"messages": [{"role": "user", "content": "2 + 2?"}]}


def prompt(folder: Path, settings: dict[str, Any]) -> str:
    """Return the end of a prompt with settings, as transformers renders it."""
    template = folder / "chat_template.jinja"
    template.write_text(template_kwargs.write(template.read_text(encoding="utf-8"), settings), encoding="utf-8")
    tokenizer = served.Expected(folder).tokenizer
    text = tokenizer.apply_chat_template(
        ASK["messages"], add_generation_prompt=True, tokenize=False, enable_thinking=True
    )
    assert chat.render_prompt(chat.load(folder), ASK) == text
    return str(text).rpartition("assistant")[2].rpartition("<｜Assistant｜>")[2]


@pytest.mark.parametrize(
    ("name", "on", "off"),
    [
        ("qwen3_training", "\n", "\n<think>\n\n</think>\n\n"),
        ("qwen3_5_think_training", "\n<think>\n", "\n<think>\n\n</think>\n\n"),
        ("nemotron_3_nano_training", "\n<think>\n", "\n<think></think>"),
        ("deepseek_r1_distill_training", "<think>\n", ""),
    ],
)
def test_thinking_is_on_or_off_whatever_a_request_says(tmp_path: Path, name: str, on: str, off: str) -> None:
    assert prompt(served.make_base(name, tmp_path / "on"), {"enable_thinking": True}) == on
    assert prompt(served.make_base(name, tmp_path / "off"), {"enable_thinking": False}) == off


@pytest.mark.parametrize("settings", [{}, {"enable_thinking": False}, {"a": 'x "%}#}', "enable_thinking": True}])
def test_the_settings_can_be_read_from_the_template(settings: dict[str, Any]) -> None:
    template = "\n{{ a }}{{ enable_thinking }}"
    written = template_kwargs.write(template, settings)
    assert template_kwargs.read(written) == settings
    assert settings or written == template


def test_a_setting_that_the_template_does_not_read_is_an_error(base: Path) -> None:
    source = (base / "chat_template.jinja").read_text(encoding="utf-8")
    with pytest.raises(
        click.ClickException, match=r"base\.template_kwargs\.thinking: the chat template reads no such"
    ):
        template_kwargs.write(source, {"thinking": True})


def test_the_server_gets_the_settings_for_its_parsers(tmp_path: Path, params: Callable[..., Path]) -> None:
    from tools.serve.params import load_serve_params
    from tools.serve.vllm_command import vllm_arguments

    folder = served.make_base("qwen3_training", tmp_path / "model")
    serve, _ = load_serve_params(Path("params.yaml"))
    option = '--default-chat-template-kwargs={"enable_thinking": false}'
    assert option not in vllm_arguments(serve, "name", {}, folder=folder)
    prompt(folder, {"enable_thinking": False})
    assert option in vllm_arguments(serve, "name", {}, folder=folder)
