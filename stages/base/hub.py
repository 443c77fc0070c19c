"""Hub model: the files of one commit of the Hugging Face Hub, without pickles and without code."""

import re
import shutil
from pathlib import Path
from typing import TypeGuard

import click

from stages.base.params import BaseParams
from stages.common import files, model_folder

# Weights as safetensors only: pickles and Python files are never downloaded.
WANTED = ("*.safetensors", "*.safetensors.index.json", "config.json", "generation_config.json", *files.CHAT_FILES)


def pinned(params: Path, config: BaseParams) -> tuple[str, str]:
    """Return the model's id and commit hash.

    Args:
        params: the params file, for messages.
        config: its base section.

    Raises:
        click.ClickException: there is no id, or the revision is not a full commit hash.
    """
    if not config.id:
        raise click.ClickException(f"{params}: base.id: needed with source: hub, such as Qwen/Qwen2.5-0.5B")
    if not is_commit(config.revision):
        raise click.ClickException(f"{params}: base.revision: {not_a_commit(config.id, config.revision)}")
    return config.id, config.revision


def is_commit(revision: str | None) -> TypeGuard[str]:
    """Whether a revision is a full commit hash; branches and tags can move."""
    return re.fullmatch(r"[0-9a-f]{40}", revision or "") is not None


def not_a_commit(name: str, revision: str | None) -> str:
    """Return the problem with a revision of the model `name` that is not a commit, and the next step."""
    return f"{revision!r} is not a full commit hash (40 hex digits), and a branch can move; {find_commit(name)}"


def find_commit(name: str) -> str:
    """Return the next step that finds the newest commit of the model `name`."""
    return f"get the hash with `git ls-remote https://huggingface.co/{name} HEAD`"


def download(name: str, revision: str, folder: Path) -> None:
    """Download the wanted files of a commit into `folder`.

    Raises:
        click.ClickException: the hub cannot be reached or refuses, or `check` finds a problem.
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
            ignore_patterns=["*/*"],  # other formats and checkpoints: `*` also matches slashes
        )
    except (httpx.HTTPError, HFValidationError, OSError) as error:
        problem = (str(error) or type(error).__name__).splitlines()[0]
        raise click.ClickException(
            f"base.id: {name} at {revision}: {problem}; check the id and hash, "
            "the network, and for gated models HF_TOKEN"
        ) from None
    shutil.rmtree(folder / ".cache", ignore_errors=True)  # holds the time of the download
    check(name, folder)


def check(name: str, folder: Path) -> None:
    """Fail unless the files of the model `name` can be used here.

    Raises:
        click.ClickException: no safetensors weights, no configuration or tokenizer, or the configuration is damaged
            or names code that is not part of the libraries.
    """
    if not any(folder.glob("*.safetensors")):
        raise click.ClickException(f"base.id: {name} has no safetensors weights; choose a revision that has them")
    for needed in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        if not (folder / needed).exists():
            raise click.ClickException(f"base.id: {name} has no {needed}; choose a revision that has it")
    for path in sorted(folder.iterdir()):
        shown = f"base.id: {name}: {path.name}"
        model_folder.refuse_code(path, shown, "choose another revision", "choose another model")
