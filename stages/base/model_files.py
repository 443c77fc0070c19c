"""Model files: which files of a model are used, whether they are complete, and how they come into models/base."""

import errno
import json
import os
import shutil
from pathlib import Path

import click

from stages.common import files, model_folder

INDEX = "model.safetensors.index.json"
# All but the weights. Weights are safetensors only: pickles and Python files are never downloaded or copied.
SMALL = ("config.json", "generation_config.json", INDEX, *files.CHAT_FILES)
NEEDED = ("config.json", "tokenizer.json", "tokenizer_config.json")


def check(where: str, folder: Path) -> None:
    """Fail unless configuration and tokenizer are there, and name no code.

    Args:
        where: key and model, for messages.
        folder: the model's files, with weights or without.

    Raises:
        click.ClickException: a file is missing, or names code that is not part of the libraries.
    """
    for needed in NEEDED:
        if not (folder / needed).exists():
            raise click.ClickException(f"{where} has no {needed}; choose a model or revision that has it")
    for name in SMALL:
        if (folder / name).exists():
            again, instead = "get it again, or choose another revision", "choose another model"
            model_folder.refuse_code(folder / name, f"{where}: {name}", again, instead)


def weights(folder: Path) -> list[str]:
    """Return the names of the weight files: those of the index, or the only one where there is none."""
    file = folder / INDEX
    if not file.exists():
        return ["model.safetensors"]
    return sorted(set(json.loads(file.read_text(encoding="utf-8"))["weight_map"].values()))


def check_weights(where: str, folder: Path) -> None:
    """Fail unless every weight file is there and whole.

    Raises:
        click.ClickException: a file is missing, or ends before the last tensor that its header lists.
    """
    from safetensors import SafetensorError, safe_open

    names = weights(folder)
    absent = [name for name in names if not (folder / name).exists()]
    if len(absent) == len(names):
        raise click.ClickException(
            f"{where} has no safetensors weights ({names[0]}); choose a model or revision that has them"
        )
    if absent:
        raise click.ClickException(
            f"{where}: {len(absent)} of {len(names)} weight files are missing, such as {absent[0]} ({folder}); "
            "download the rest"
        )
    for name in names:
        try:
            with safe_open(folder / name, framework="numpy"):
                pass
        except SafetensorError as error:
            raise click.ClickException(
                f"{where}: {folder / name} is cut off or damaged ({error}); delete it, and download it again"
            ) from None


def take(source: Path, names: list[str], folder: Path, *, link: bool = False) -> None:
    """Bring files that exist in `source` into `folder`.

    Args:
        source: a folder of model files.
        names: names of files.
        folder: where they go.
        link: as hard links where possible. Only for files that nobody changes in place.
    """
    for name in names:
        file = (source / name).resolve()  # a hub's cache holds links to its files
        if not file.exists():
            continue
        if link and file.stat().st_uid == os.geteuid():  # else its mode cannot be set
            try:
                os.link(file, folder / name)
                continue
            except OSError as error:
                if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP):
                    raise
        shutil.copyfile(file, folder / name)
