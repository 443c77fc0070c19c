"""Download the base model at a pinned commit of the Hugging Face Hub, convert a GGUF file, or build the tiny model.

First stage: writes models/base with weights, tokenizer, chat template and manifest.json. Run it with
`dvc repro base`, or alone with `python -m stages.base`.
"""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from stages.base import gguf, hub
from stages.base.params import BaseParams
from stages.base.tiny_model import build_tiny
from stages.common import chat, chat_template, files
from stages.common.params import load_params


@click.command(help=__doc__)
@click.option("--params", type=click.Path(path_type=Path), default="params.yaml", show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default="models/base", show_default=True)
def main(params: Path, out: Path) -> None:
    # Params
    config = load_params(params, "base", BaseParams)

    # Inputs
    pin = hub.pinned(params, config) if config.source == "hub" else None
    if config.source == "gguf":
        gguf.require_pinned(params, config.gguf)

    with files.fresh_folder(out) as folder:
        # Work
        origin: dict[str, Any] = {"id": "lockstep/tiny"}
        if pin:
            hub.download(*pin, folder)
            origin = {"id": pin[0], "revision": pin[1]}
        elif config.source == "gguf":
            origin = gguf.make(config.gguf, folder)
        else:
            build_tiny(config.tiny, folder)

        # Outputs
        set_chat_template(config, folder)
        set_stop_token(config, folder)
        chat.load(folder)
        manifest = {"revision": files.digest(folder), "files": files.hashes(folder)} | origin
        files.write_json(folder / "manifest.json", manifest)
    click.echo(f"{manifest['id']} at {manifest['revision']}: {files.size_bytes(out)} bytes of weights in {out}")


def set_chat_template(config: BaseParams, folder: Path) -> None:
    """Write one chat template with generation markers to chat_template.jinja.

    It is base.chat_template when set, else the model's own. A template without markers that TRL knows is
    replaced by TRL's version with markers (https://huggingface.co/docs/trl/chat_templates).
    """
    file, tokenizer_config = folder / "chat_template.jinja", folder / "tokenizer_config.json"
    if config.chat_template:
        source = config.chat_template
    elif file.exists():
        source = file.read_text(encoding="utf-8")
    else:
        source = json.loads(tokenizer_config.read_text(encoding="utf-8")).get("chat_template") or ""
        if isinstance(source, list):  # several templates, each with a name
            source = {variant["name"]: variant["template"] for variant in source}.get("default", "")
    if source:
        file.write_text(source, encoding="utf-8", newline="\n")
    if source and not chat_template.has_markers(source):
        from transformers import AutoTokenizer
        from trl.chat_template_utils import get_training_chat_template

        with suppress(ValueError):  # TRL does not know it
            if marked := get_training_chat_template(AutoTokenizer.from_pretrained(folder)):
                file.write_text(marked, encoding="utf-8", newline="\n")


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


if __name__ == "__main__":
    main()
