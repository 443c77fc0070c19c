"""Template kwargs: settings of a chat template, such as `enable_thinking`, written into the template itself.

So whoever renders it has them: preprocess, eval, a server, and every other program that gets the model's folder. A
request cannot change them, since another setting makes another prompt than those of the training rows.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

import click
import jinja2.meta

from stages.common import chat_template

OWN = ("messages", "tools", "documents", "add_generation_prompt")  # what a server gives every template
HEADER = re.compile(r"\{#- template_kwargs: (?P<settings>\{.*?\}) -#\}\{%- set ")
# DeepSeek-R1 and its distilled models: templates that always ask for reasoning get a switch, by the name that others
# have, and write the reasoning of the last answer, which they leave out. That of earlier ones stays out.
THOUGHT = (
    "('<think>\\n' + message.reasoning_content.strip('\\n') + '\\n</think>\\n\\n' "
    "if enable_thinking and loop.last and message.reasoning_content else '')"
)
THINKING = {
    "{{'<｜Assistant｜><think>\\n'}}": "{{'<｜Assistant｜>' + ('<think>\\n' if enable_thinking else '')}}",
    **{
        f"{{{{'<｜Assistant｜>' + {answer} + '<｜end▁of▁sentence｜>'}}}}": (
            f"{{{{'<｜Assistant｜>' + {THOUGHT} + {answer} + '<｜end▁of▁sentence｜>'}}}}"
        )
        for answer in ("message['content']", "content")
    },
}


def write(template: str, settings: Mapping[str, Any]) -> str:
    """Set variables of a chat template for good.

    Args:
        template: the template.
        settings: values by the variable's name; none: the template stays as it is.

    Raises:
        click.ClickException: the template reads no such variable.
    """
    if not settings:
        return template
    if "enable_thinking" in settings:
        for always, switched in THINKING.items():
            template = template.replace(always, switched)
    variables = jinja2.meta.find_undeclared_variables(chat_template.new_environment().parse(template))
    known = sorted(name for name in variables if name not in OWN and not name.endswith("_token"))
    for name in settings:
        if name not in known:
            raise click.ClickException(
                f"base.template_kwargs.{name}: the chat template reads no such variable; it reads "
                f"{', '.join(known) or 'none'}"
            )
    values = "".join(f"{{%- set {name} = {_literal(value)} %}}" for name, value in sorted(settings.items()))
    # The line end after a block is not part of the text.
    header = json.dumps(dict(settings), sort_keys=True).replace("#}", "#\\u007d")  # the end of a comment
    return f"{{#- template_kwargs: {header} -#}}{values}\n{template}"


def read(template: str) -> dict[str, Any]:
    """Return the settings that `write` has put into a chat template."""
    found = HEADER.match(template)
    return json.loads(found["settings"]) if found else {}


def _literal(value: Any) -> str:
    """Write a value as Jinja reads it."""
    if isinstance(value, bool | None):
        return {True: "true", False: "false", None: "none"}[value]
    return json.dumps(value, ensure_ascii=False)
