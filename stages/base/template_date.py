"""Date: a fixed one in a chat template that writes today's, so that training and server have the same every day."""

import json
import re
from datetime import date

import click

CALL = re.compile(r"""strftime_now\(\s*(["'])(?P<form>.*?)\1\s*\)""")


def fix(template: str, day: date) -> str:
    """Write a date in place of every call of `strftime_now`, the clock of transformers and vLLM.

    Args:
        template: a chat template.
        day: the date.

    Raises:
        click.ClickException: the template uses the clock in another way.
    """
    fixed = CALL.sub(lambda call: json.dumps(day.strftime(call["form"]), ensure_ascii=False), template)
    # Here the clock is never defined, on a server always.
    fixed = re.sub(r"\bstrftime_now\s+is\s+not\s+defined\b", "false", fixed)
    fixed = re.sub(r"\bstrftime_now\s+is\s+defined\b", "true", fixed)
    if re.search(r"\bstrftime_now\b", fixed):
        raise click.ClickException(
            "base.chat_template: the model's template calls strftime_now with a computed format, so its text changes "
            "every day; set base.chat_template to a copy of it with a fixed date"
        )
    return fixed
