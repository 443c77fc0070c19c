"""Chat template: compiled as in transformers, and it records which parts of the text are in the loss."""

import json
import re
from pathlib import Path
from typing import Any

import click
import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.runtime
from jinja2.sandbox import ImmutableSandboxedEnvironment

DICT_NAMES = frozenset(dir(dict))
# Methods of a text that the sandbox allows as they are; it gives templates `format` in a form of its own.
STR_METHODS = frozenset(name for name in dir(str) if name[0] != "_") - {"format", "format_map"}
REASONING_KEYS = ("reasoning_content", "thinking", "reasoning")


def load(folder: Path, config: dict[str, Any]) -> tuple[jinja2.Template, str]:
    """Compile the chat template of a model folder, and find the key under which it reads a message's reasoning.

    Args:
        folder: the model folder.
        config: its tokenizer_config.json, which may hold the template when there is no chat_template.jinja.

    Raises:
        click.ClickException: no template, a syntax error in it, or no generation markers.
    """
    file = folder / "chat_template.jinja"
    source = file.read_text(encoding="utf-8") if file.exists() else config.get("chat_template")
    if not source:
        raise click.ClickException(f"{folder}: no chat template (chat_template.jinja); set base.chat_template")
    if not has_markers(source):
        raise click.ClickException(
            f"{file}: no {{% generation %}} markers around the assistant's answer, so the loss mask would be empty; "
            "set base.chat_template to a template with markers"
        )
    environment = new_environment()
    try:
        template = environment.from_string(source)
    except jinja2.TemplateSyntaxError as error:
        raise click.ClickException(f"{file}:{error.lineno}: {error.message}; fix the template") from None
    template.globals = dict(template.globals)  # faster: Jinja would search its chain of mappings again for every row
    return template, next((key for key in REASONING_KEYS if key in source), REASONING_KEYS[0])


def new_environment() -> jinja2.Environment:
    """Return the environment of transformers, without `strftime_now`.

    A template that writes today's date gives other tokens tomorrow. Without that function, such templates write a
    fixed date.
    """
    environment = _Environment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    return environment


def has_markers(source: str) -> bool:
    """Whether a chat template marks the assistant's answers, by the same test as in transformers and TRL."""
    return re.search(r"\{%-?\s*generation\s*-?%\}", source) is not None


class _Environment(ImmutableSandboxedEnvironment):
    """The sandbox of transformers, with a shorter way to keys of a message and methods of a text: the same texts."""

    context: jinja2.runtime.Context | None = None

    def reuse_context(self, template: jinja2.Template, values: dict[str, Any]) -> jinja2.runtime.Context:
        """Return the context of a rendering, which was that of the one before: to make one takes longer."""
        if self.context is None:
            self.context = template.new_context()
        self.context.vars.clear()
        self.context.exported_vars.clear()
        self.context.parent = values
        return self.context

    def call(self, context: Any, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Call a function of the template: the one for `{% generation %}` is ours, and needs no check."""
        if getattr(function, "__func__", None) is _Generation.log:
            return function(kwargs["caller"])
        if type(getattr(function, "__self__", None)) is str:  # `getattr` below has let it pass
            for name in ("_loop_vars", "_block_vars"):  # Jinja's own, for functions that ask for the context
                kwargs.pop(name, None)
            return function(*args, **kwargs)
        return super().call(context, function, *args, **kwargs)

    def getattr(self, obj: Any, attribute: str) -> Any:
        """Look up `message.role`: in a dict that has no method of that name, the key; or a method of a text."""
        if type(obj) is dict and attribute not in DICT_NAMES:
            return obj[attribute] if attribute in obj else self.undefined(obj=obj, name=attribute)
        if type(obj) is str and attribute in STR_METHODS:
            return getattr(obj, attribute)
        return super().getattr(obj, attribute)


class _Generation(jinja2.ext.Extension):
    """`{% generation %}`: render the body and record its span in the text."""

    tags = {"generation"}  # noqa: RUF012  Jinja's own interface

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("log"), [], [], body).set_lineno(line)

    def log(self, caller: Any) -> str:
        """Return the text of a block, and record its span."""
        text = caller()
        log: Any = self.environment
        parts, spans = log.generation_log
        start = sum(map(len, parts))
        spans.append((start, start + len(text)))
        return text


def _tojson(value: Any, ensure_ascii: bool = False, indent: int | None = None, **kwargs: Any) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **kwargs)


def _raise_exception(message: str) -> None:
    raise jinja2.exceptions.TemplateError(message)
