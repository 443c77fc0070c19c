"""Chat files: a chat template with markers and a fixed date, a stop token, and a tokenizer that all read alike.

All this is checked before the weights are downloaded.
"""

import json
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from stages.base import marks, probes, template_date, template_kwargs, tokenizer_class
from stages.base.params import BaseParams
from stages.common import chat, chat_template, files

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Marked(NamedTuple):
    """A chat template with markers, for a model whose own has none.

    Attributes:
        name: where it comes from: trl/NAME, or lockstep/FAMILY for the model's own text with markers of ours.
        text: the template.
        other_text: the kinds of probes that it renders differently.
        also: the kinds of probes that it renders, and the model's own refuses.
    """

    name: str
    text: str
    other_text: list[str]
    also: list[str]


def prepare(config: BaseParams, folder: Path, origin: Path, own: str = "") -> dict[str, Any]:
    """Make the chat files of a model folder usable for training and serving, and check them.

    Args:
        config: the base section of the params.
        folder: the model folder in the making, with copies of the chat files.
        origin: where the files came from and stay, for messages.
        own: a template to use instead of the model's, see `read_own`.

    Returns:
        What is not the model's own, for the manifest: empty if all is.

    Raises:
        click.ClickException: the files cannot be used; the message names the file to read, and the next step.
    """
    tokenizer, replaced = tokenizer_class.load(folder)
    record = set_chat_template(config, folder, tokenizer, origin, own)
    if replaced:
        record["tokenizer_class"] = {"from": replaced, "to": tokenizer_class.PLAIN}
    set_stop_token(config, folder)
    check_stop_token(chat.load(folder), folder)
    return record


def set_chat_template(
    config: BaseParams, folder: Path, tokenizer: "PreTrainedTokenizerBase", origin: Path, own: str = ""
) -> dict[str, Any]:
    """Write one chat template with generation markers, a fixed date and base.template_kwargs to chat_template.jinja.

    It is `own` when there is one, else the model's. One without markers is replaced by one with markers, as
    `find_marked` finds it.

    Returns:
        What is not the model's own: the template's source and what it renders otherwise, the fixed date and the
        settings.

    Raises:
        click.ClickException: there is no such template, or it does not read such a setting.
    """
    own = own or read_template(folder)
    if not own:
        return {}
    record: dict[str, Any] = {}
    day = date.fromisoformat(config.template_date)
    source = template_date.fix(own, day)
    if source != own:
        record["template_date"] = config.template_date
    if not chat_template.has_markers(source):
        where = f"base.chat_template: {config.chat_template}" if config.chat_template else file_of_template(origin)
        found = find_marked(tokenizer, source, day, where)
        source = found.text
        record["chat_template"] = {"from": found.name, "other_text": found.other_text, "also": found.also}
    if config.template_kwargs:
        source = template_kwargs.write(source, config.template_kwargs)
        record["template_kwargs"] = config.template_kwargs
    (folder / "chat_template.jinja").write_text(source, encoding="utf-8", newline="\n")
    return record


def read_own(params: Path, config: BaseParams, templates: Path) -> str:
    """Read the template that base.chat_template names; "" where it is null.

    Raises:
        click.ClickException: there is no such file.
    """
    if config.chat_template is None:
        return ""
    file = templates / config.chat_template
    if "{" in config.chat_template:
        problem = f"must be the name of a file in {templates}: dvc.lock does not keep every text as it is"
    elif file.parent != templates or not file.is_file():
        there = ", ".join(sorted(one.name for one in templates.glob("*.jinja"))) or "no such file"
        problem = f"{config.chat_template}: not in {templates} ({there}); put it there"
    else:
        return file.read_text(encoding="utf-8").removesuffix("\n")
    raise click.ClickException(f"{params}: base.chat_template: {problem}")


def read_template(folder: Path) -> str:
    """Read the model's own template: chat_template.jinja, or that of tokenizer_config.json; "" if there is none."""
    file = folder / "chat_template.jinja"
    if file.exists():
        return file.read_text(encoding="utf-8")
    source = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8")).get("chat_template") or ""
    if isinstance(source, list):  # several templates, each with a name
        source = {variant["name"]: variant["template"] for variant in source}.get("default", "")
    return str(source)


def file_of_template(origin: Path) -> str:
    """Return where the template of a model stands."""
    file = origin / "chat_template.jinja"
    return str(file) if file.exists() else f"{origin / 'tokenizer_config.json'} (key chat_template)"


def find_marked(tokenizer: "PreTrainedTokenizerBase", own: str, day: date, read: str) -> Marked:
    """Find the template with markers for a model whose own has none.

    First one that renders the same text for every probe: TRL's, or the model's own with markers of ours. Else TRL's
    training version of a template that does: TRL changes some so that a turn does not depend on later ones, such as
    Qwen3's.

    Args:
        tokenizer: the model's.
        own: its template, with a fixed date.
        day: that date.
        read: where its template stands, for messages.

    Returns:
        The template.

    Raises:
        click.ClickException: no template renders the same text.
    """
    expected = probes.render(tokenizer, own)
    if not any(expected):
        raise click.ClickException(f"{read}: the template refuses every probe conversation; correct it")
    templates = trl_templates(day)
    rendered = {name: probes.render(tokenizer, text) for name, text in templates.items()}
    other = {name: probes.differences(expected, texts) for name, texts in rendered.items()}
    more = {name: probes.additions(expected, texts) for name, texts in rendered.items()}
    # First those made from a template that is the model's own, refusals included.
    near = {name: len(other[name] + more[name]) for name in templates}
    order = sorted(templates, key=lambda name: (near.get(name.removesuffix("_training"), 9), near[name], name))
    marked = [name for name in order if chat_template.has_markers(templates[name])]
    for name in marked:
        if not other[name]:
            return Marked(f"trl/{name}", templates[name], [], more[name])
    for family, source in marks.mark(own).items():
        if chat_template.has_markers(source) and probes.render(tokenizer, source) == expected:
            return Marked(f"lockstep/{family}", source, [], [])
    for name in order:
        if not other[name] and (training := f"{name}_training") in marked:
            return Marked(f"trl/{training}", templates[training], other[training], more[training])
    nearest = min(marked, key=lambda name: len(other[name]))
    raise click.ClickException(
        f"{read}: no {{% generation %}} markers around the assistant's answer, so the loss mask would be empty, and "
        f"no template with markers renders the same text; nearest is {trl_folder() / nearest}.jinja (other text for "
        f"{', '.join(other[nearest])}): read it, put markers into a copy of the model's template in the same way, "
        "and set base.chat_template to that (docs/chat-templates.md)"
    )


def trl_templates(day: date) -> dict[str, str]:
    """Return the chat templates of TRL by name, sorted, with a fixed date."""
    found = {file.stem: file.read_text(encoding="utf-8") for file in sorted(trl_folder().glob("*.jinja"))}
    return {name: template_date.fix(source, day) for name, source in found.items()}


def trl_folder() -> Path:
    """Return the folder of TRL's chat templates."""
    import trl

    return Path(trl.__file__).parent / "chat_templates"


def describe(changed: dict[str, Any]) -> Iterator[str]:
    """Yield a line on each thing that is not the model's own."""
    if found := changed.get("chat_template"):
        other, also = found["other_text"], found["also"]
        says = f"it renders other text for {', '.join(other)}" if other else "it renders the same text"
        says += f", and conversations that the model's own refuses ({', '.join(also)})" if also else ""
        yield f"chat template: {found['from']}, with generation markers; {says} ({len(probes.PROBES)} conversations)"
    if day := changed.get("template_date"):
        yield f"chat template: the date is always {day} (base.template_date)"
    if settings := changed.get("template_kwargs"):
        yield f"chat template: {json.dumps(settings)} is part of it (base.template_kwargs)"
    if found := changed.get("tokenizer_class"):
        yield f"tokenizer: {found['to']} for {found['from']}, which gives other tokens than tokenizer.json"


def set_stop_token(config: BaseParams, folder: Path) -> None:
    """Add base.stop_token to generation_config.json, where transformers and vLLM read what ends an answer.

    Raises:
        click.ClickException: the tokenizer has no such token.
    """
    if config.stop_token is None:
        return
    from tokenizers import Tokenizer

    stop = Tokenizer.from_file(str(folder / "tokenizer.json")).token_to_id(config.stop_token)
    if stop is None:
        raise click.ClickException(
            f"base.stop_token: {config.stop_token!r} is not in the model's vocabulary; use a token of tokenizer.json"
        )
    file = folder / "generation_config.json"
    generation = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    known = generation.get("eos_token_id", [])
    others = [token for token in (known if isinstance(known, list) else [known]) if token not in (stop, None)]
    files.write_json(file, generation | {"eos_token_id": [stop, *others]})


def check_stop_token(chat_tokenizer: chat.ChatTokenizer, folder: Path) -> None:
    """Fail unless an answer ends in a stop token of the model.

    Raises:
        click.ClickException: the template ends the answer of the plain probe in another token.
    """
    (row,) = chat.encode(chat_tokenizer, [{"messages": [probes.ASK, probes.ANSWER]}])
    supervised = [token for token, on in zip(*row, strict=True) if on]
    if chat_tokenizer.stop_ids & set(supervised[-3:]):
        return
    added = {n: token.content for n, token in chat_tokenizer.tokenizer.get_added_tokens_decoder().items()}
    ends = [added[token] for token in supervised[-3:] if added.get(token, "").strip()]
    stops = [chat_tokenizer.tokenizer.id_to_token(token) for token in sorted(chat_tokenizer.stop_ids)]
    raise click.ClickException(
        f"{folder / 'chat_template.jinja'}: an answer ends in {ends[-1] if ends else 'no special token'}, and "
        f"generation stops at {', '.join(map(str, stops))}, so answers would not end; set base.stop_token"
        + (f" to {ends[-1]!r}" if ends else " to the template's end of a turn")
    )
