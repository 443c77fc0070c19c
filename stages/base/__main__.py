"""Take the base model from the Hugging Face Hub, ModelScope, a folder or a GGUF file, pinned, or build the tiny one.

First stage: writes models/base with weights, tokenizer, chat template and manifest.json. Run it with
`dvc repro base`, or alone with `python -m stages.base`.
"""

from pathlib import Path
from typing import Any

import click

from stages.base import chat_files, gguf_model, hub, local_folder, model_files
from stages.base.params import BaseParams
from stages.base.tiny_model import build_tiny
from stages.common import files
from stages.common.params import load_params


@click.command(help=__doc__)
@click.option("--params", type=click.Path(path_type=Path), default="params.yaml", show_default=True)
@click.option("--templates", type=click.Path(path_type=Path), default="data/templates", show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default="models/base", show_default=True)
def main(params: Path, templates: Path, out: Path) -> None:
    # Params
    config = load_params(params, "base", BaseParams)

    # Inputs
    own = chat_files.read_own(params, config, templates)
    record: dict[str, Any] = {"id": "lockstep/tiny"}
    origin = None
    if config.source == "folder":
        origin, record = local_folder.pinned(params, config)
    elif config.source == "gguf":
        gguf_model.require_pinned(params, config.gguf)
    elif config.source != "tiny":
        record = hub.pinned(params, config)
        origin = hub.fetch_chat_files(config.source, **record)

    with files.fresh_folder(out) as folder:
        # Work: the chat files first, so that an error in them costs no download of weights
        if origin:
            model_files.take(origin, list(model_files.SMALL), folder)
        elif config.source == "gguf":
            record = gguf_model.make(config.gguf, folder)
        else:
            build_tiny(config.tiny, folder)
        changed = chat_files.prepare(config, folder, origin or folder, own)
        if origin and config.source != "folder":
            origin = hub.fetch_weights(config.source, **record, folder=origin)
        if origin:
            # Hard links to the hub's cache save disk. A folder of yours is copied: DVC makes what it keeps read-only.
            model_files.take(origin, model_files.weights(folder), folder, link=config.source != "folder")

        # Outputs
        manifest = {"revision": files.digest(folder), "files": files.hashes(folder)} | record
        files.write_json(folder / "manifest.json", manifest | ({"changed": changed} if changed else {}))
    for what in chat_files.describe(changed):
        click.echo(what)
    click.echo(f"{manifest['id']} at {manifest['revision']}: {files.size_bytes(out)} bytes of weights in {out}")


if __name__ == "__main__":
    main()
