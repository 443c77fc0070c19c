"""Hub: a model's files at one commit, without pickles and without code."""

import json
import shutil
from pathlib import Path

import click

from stages.common import files

# Weights as safetensors only, and no code: neither pickles nor Python files are ever downloaded.
WANTED = ("*.safetensors", "*.safetensors.index.json", "config.json", "generation_config.json", *files.CHAT_FILES)


def download(name: str, revision: str, folder: Path) -> None:
    """Download the wanted files of the pinned commit into `folder`.

    Raises:
        click.ClickException: the hub cannot be reached or refuses, or the model has no safetensors weights or
            needs code of its own.
    """
    import httpx
    import huggingface_hub
    from huggingface_hub.errors import HFValidationError

    try:
        huggingface_hub.snapshot_download(
            name,
            revision=revision,
            local_dir=folder,
            allow_patterns=list(WANTED),
            ignore_patterns=["*/*"],  # other formats and checkpoints; `*` of a pattern takes in slashes
        )
    except (httpx.HTTPError, HFValidationError, OSError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise click.ClickException(
            f"base.id: {name} at {revision}: {reason}; check the id and hash, "
            "the network, and for gated models HF_TOKEN"
        ) from None
    shutil.rmtree(folder / ".cache", ignore_errors=True)  # holds times of the download
    if not any(folder.glob("*.safetensors")):
        raise click.ClickException(f"base.id: {name} has no safetensors weights; choose a revision that has")
    for needed in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        if not (folder / needed).exists():
            raise click.ClickException(f"base.id: {name} has no {needed}; choose a revision that has")
    if "auto_map" in json.loads((folder / "config.json").read_text(encoding="utf-8")):
        raise click.ClickException(f"base.id: {name} needs code of its own, which is never run; choose another")
