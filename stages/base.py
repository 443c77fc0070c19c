"""Fetch the base model at a commit of the model hub, or build the tiny one that needs no network.

First stage: writes models/base with weights, tokenizer, chat template and manifest.json. Run it with
`dvc repro base`, or alone with `python -m stages.base`.
"""

import json
import re
from pathlib import Path
from typing import Literal

import click

from stages.common import chat, files, hub, settings, template
from stages.common.tiny import TinyParams, build_tiny


class BaseParams(settings.Section):
    """params.yaml: base."""

    source: Literal["tiny", "hub"]
    id: str | None
    revision: str | None
    chat_template: str | None
    stop_token: str | None
    tiny: TinyParams


@click.command(help=__doc__)
@click.option("--params", type=click.Path(path_type=Path), default="params.yaml", show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default="models/base", show_default=True)
def main(params: Path, out: Path) -> None:
    # Params
    config = settings.load(params, "base", BaseParams)

    # Inputs
    pin = pinned(params, config) if config.source == "hub" else None

    with files.fresh_folder(out) as folder:
        # Work
        if pin:
            hub.download(*pin, folder)
        else:
            build_tiny(config.tiny, folder)

        # Outputs
        set_chat_template(config, folder)
        set_stop_token(config, folder)
        chat.load(folder)
        manifest = {
            "id": pin[0] if pin else "lockstep/tiny",
            "revision": pin[1] if pin else files.digest(folder),
            "files": files.hashes(folder),
        }
        files.write_json(folder / "manifest.json", manifest)
    click.echo(f"{manifest['id']} at {manifest['revision']}: {files.size_bytes(out)} bytes of weights in {out}")


def pinned(params: Path, config: BaseParams) -> tuple[str, str]:
    """Give the hub model's id and commit, or fail unless it is a full hash: branches and tags move."""
    if not config.id:
        raise click.ClickException(f"{params}: base.id: needed with source: hub, such as Qwen/Qwen2.5-0.5B")
    if not config.revision or not re.fullmatch(r"[0-9a-f]{40}", config.revision):
        raise click.ClickException(
            f"{params}: base.revision: {config.revision!r} is no full commit hash (40 hex digits), and a branch "
            f"moves; get the hash with `git ls-remote https://huggingface.co/{config.id} HEAD`"
        )
    return config.id, config.revision


def set_chat_template(config: BaseParams, folder: Path) -> None:
    """Leave one template with generation markers in chat_template.jinja.

    It is base.chat_template when set, else the model's own; for the templates that TRL knows, its
    version with markers (https://huggingface.co/docs/trl/chat_templates) takes the place of one without.
    """
    file, tokenizer_config = folder / "chat_template.jinja", folder / "tokenizer_config.json"
    if config.chat_template:
        source = config.chat_template
    elif file.exists():
        source = file.read_text(encoding="utf-8")
    else:
        source = json.loads(tokenizer_config.read_text(encoding="utf-8")).get("chat_template") or ""
        if isinstance(source, list):  # several by name
            source = {variant["name"]: variant["template"] for variant in source}.get("default", "")
    if source:
        file.write_text(source, encoding="utf-8", newline="\n")
    if source and not template.has_markers(source) and (marked := with_markers(folder)):
        file.write_text(marked, encoding="utf-8", newline="\n")


def set_stop_token(config: BaseParams, folder: Path) -> None:
    """Let generation stop at base.stop_token too, here and in every server that reads generation_config.json."""
    if config.stop_token is None:
        return
    from tokenizers import Tokenizer

    stop = Tokenizer.from_file(str(folder / "tokenizer.json")).token_to_id(config.stop_token)
    if stop is None:
        raise click.ClickException(f"base.stop_token: {config.stop_token!r} is no token of the model")
    file = folder / "generation_config.json"
    generation = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    known = generation.get("eos_token_id", [])
    others = [token for token in (known if isinstance(known, list) else [known]) if token not in (stop, None)]
    files.write_json(file, generation | {"eos_token_id": [stop, *others]})


def with_markers(folder: Path) -> str | None:
    """Give TRL's version of the folder's template with generation markers, or None for one it does not know."""
    from transformers import AutoTokenizer
    from trl.chat_template_utils import get_training_chat_template

    try:
        return get_training_chat_template(AutoTokenizer.from_pretrained(folder))
    except ValueError:
        return None


if __name__ == "__main__":
    main()
