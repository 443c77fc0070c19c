"""Hub model: one commit of the Hugging Face Hub, of a mirror of it, or of ModelScope, in the hub's own cache.

The chat files come first and the weights last. All stay in the cache (`HF_HOME`, or `MODELSCOPE_CACHE`), so nothing
is downloaded twice: not after an error, an interruption, or a change of base.chat_template.
"""

import os
import re
from pathlib import Path
from typing import TypeGuard

import click

from stages.base import model_files
from stages.base.params import BaseParams


def pinned(params: Path, config: BaseParams) -> dict[str, str]:
    """Return the model's `id` and commit hash, `revision`.

    Args:
        params: the params file, for messages.
        config: its base section.

    Raises:
        click.ClickException: there is no id, or the revision is not a full commit hash.
    """
    if not config.id:
        raise click.ClickException(
            f"{params}: base.id: needed with source: {config.source}, such as Qwen/Qwen2.5-0.5B"
        )
    if not is_commit(config.revision):
        raise click.ClickException(f"{params}: base.revision: {not_a_commit(config.id, config.revision)}")
    return {"id": config.id, "revision": config.revision}


def is_commit(revision: str | None) -> TypeGuard[str]:
    """Whether a revision is a full commit hash; branches and tags can move."""
    return re.fullmatch(r"[0-9a-f]{40}", revision or "") is not None


def not_a_commit(name: str, revision: str | None) -> str:
    """Return the problem with a revision of the model `name` that is not a commit, and the next step."""
    return f"{revision!r} is not a full commit hash (40 hex digits), and a branch can move; {find_commit(name)}"


def find_commit(name: str) -> str:
    """Return the next step that finds the newest commit of the model `name`."""
    return f"get the hash with `git ls-remote https://huggingface.co/{name} HEAD`"


def fetch(source: str, name: str, revision: str, wanted: list[str]) -> Path:
    """Download files of a commit into the hub's cache, where they are not there yet.

    Args:
        source: hub, or modelscope.
        name: the model's id.
        revision: its full commit hash.
        wanted: names of files. Those that the model does not have are left out.

    Returns:
        The folder in the cache, which may hold other files, too.

    Raises:
        click.ClickException: the hub cannot be reached, or refuses, or the cache lacks the model while offline.
    """
    if source == "modelscope":
        return _fetch_from_modelscope(name, revision, wanted)
    import httpx
    import huggingface_hub
    from huggingface_hub import constants, errors

    where = f"base.id: {name} at {revision}: "
    try:
        folder = huggingface_hub.snapshot_download(name, revision=revision, allow_patterns=wanted)
    except errors.GatedRepoError:
        raise click.ClickException(
            f"{where}gated; accept its licence at {constants.ENDPOINT}/{name}, and set HF_TOKEN"
        ) from None
    except errors.RevisionNotFoundError:
        raise click.ClickException(f"{where}the model has no such commit; {find_commit(name)}") from None
    except errors.RepositoryNotFoundError:
        raise click.ClickException(
            f"{where}{constants.ENDPOINT} has no such model, or hides it; check the id, or set HF_TOKEN"
        ) from None
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        if constants.HF_HUB_OFFLINE:
            raise click.ClickException(
                f"{where}not whole in the cache {constants.HF_HUB_CACHE}, and HF_HUB_OFFLINE is set; unset it, or "
                "copy the model's folder from another machine's cache"
            ) from None
        raise click.ClickException(_unreachable(where, error.__cause__ or error, constants.ENDPOINT)) from None
    except (httpx.HTTPError, errors.HFValidationError, OSError) as error:
        raise click.ClickException(_unreachable(where, error, constants.ENDPOINT)) from None
    return Path(folder)


def _unreachable(where: str, error: BaseException, endpoint: str) -> str:
    problem = (str(error) or type(error).__name__).splitlines()[0]
    return f"{where}{problem}; check id, hash and network ({endpoint}: HF_ENDPOINT names a mirror)"


def _fetch_from_modelscope(name: str, revision: str, wanted: list[str]) -> Path:
    try:
        from modelscope_hub.compat import snapshot_download
        from modelscope_hub.errors import HubError
    except ModuleNotFoundError:
        raise click.ClickException(
            "base.source: modelscope needs a library; run `.venv/bin/uv pip install modelscope-hub`"
        ) from None
    offline = os.environ.get("HF_HUB_OFFLINE", "0").lower() in ("1", "on", "true", "yes")
    try:
        folder = snapshot_download(name, revision=revision, allow_patterns=wanted, local_files_only=offline)
    except (HubError, OSError, ValueError) as error:  # its HTTP errors are OSErrors, too
        problem = (str(error) or type(error).__name__).splitlines()[0]
        raise click.ClickException(
            f"base.id: {name} at {revision}: {problem}; check id, hash and network (MODELSCOPE_ENDPOINT)"
        ) from None
    return Path(folder)


def fetch_chat_files(source: str, id: str, revision: str) -> Path:
    """Download everything but the weights, and check it.

    Returns:
        The folder in the cache.

    Raises:
        click.ClickException: as in `fetch`, and as in `model_files.check`.
    """
    folder = fetch(source, id, revision, list(model_files.SMALL))
    model_files.check(f"base.id: {id}", folder)
    return folder


def fetch_weights(source: str, id: str, revision: str, folder: Path) -> Path:
    """Download the weights that the model's index names.

    Args:
        source: hub, or modelscope.
        id: the model's.
        revision: its full commit hash.
        folder: from `fetch_chat_files`.

    Returns:
        The folder in the cache.

    Raises:
        click.ClickException: as in `fetch`, or a file is missing or cut off.
    """
    weights = model_files.weights(folder)
    folder = fetch(source, id, revision, weights)
    model_files.check_weights(f"base.id: {id}", folder)
    return folder
