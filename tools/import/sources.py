"""Sources of rows: a dataset of the model hub, an https:// address, a file. Each is checked before it is fetched."""

import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from urllib.parse import unquote

import click

from stages.preprocess.readers import KINDS, SUFFIXES

from .addresses import download, parse_address, shown

LISTED = 20  # files of a dataset that an error names


class Source(NamedTuple):
    """One file of rows.

    Attributes:
        name: file name at the source.
        facts: what to record; without a `revision`, the sha256 of the bytes is the revision.
        fetch: writes the bytes to a path; it may write other files beside it.
        licence: licence by the dataset card, if there is one.
    """

    name: str
    facts: dict[str, str]
    fetch: Callable[[Path], object]
    licence: str | None = None


def find_source(source: str, revision: str | None, file: str | None) -> Source:
    """Decide which kind of source it is, and check it without fetching its bytes.

    Args:
        source: `owner/name` of a dataset, an address, or a path.
        revision: the dataset's commit hash.
        file: path of the file in the dataset; needed where it has several.

    Raises:
        click.ClickException: none of the three, or one that cannot or must not be fetched.
    """
    if not source:
        raise click.ClickException("SOURCE: missing; set it to a file, an https:// address, or owner/name on the hub")
    path = Path(source)
    named = re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", source, re.ASCII)
    if named and (revision or not (path.exists() or source.lower().endswith(SUFFIXES))):
        return _dataset(source, revision, file)
    if revision or file:
        raise click.ClickException(
            f"{source}: --revision and --file are for datasets of the hub; leave them out, or name one as owner/name"
        )
    if "://" in source:
        url = parse_address(source)
        name = PurePosixPath(unquote(url.path)).name
        return Source(name, {"source": shown(url)}, lambda out: download(url, out))
    if path.is_dir():
        raise click.ClickException(f"{source}: is a folder; name a file in it")
    if not path.exists():
        raise click.ClickException(
            f"{source}: no such file, and not owner/name on the hub or an https:// address; correct SOURCE"
        )
    return Source(path.name, {"source": path.name}, lambda out: shutil.copyfile(path, out))


def _dataset(name: str, revision: str | None, file: str | None) -> Source:
    import huggingface_hub

    if not revision or not re.fullmatch(r"[0-9a-f]{40}", revision):
        raise click.ClickException(
            f"{name}: --revision: {revision!r} is not a full commit hash (40 hex digits), and a branch changes; get "
            f"the hash with `git ls-remote https://huggingface.co/datasets/{name} HEAD`"
        )
    with _hub_errors(name, revision):
        info = huggingface_hub.HfApi().dataset_info(name, revision=revision)
    file = _data_file(name, file, [one.rfilename for one in info.siblings or []])

    def fetch(out: Path) -> None:
        with _hub_errors(name, revision):
            found = huggingface_hub.hf_hub_download(
                name, file, repo_type="dataset", revision=revision, local_dir=out.parent / "hub"
            )
        Path(found).replace(out)

    licence = info.card_data.get("license") if info.card_data else None
    return Source(
        PurePosixPath(file).name,
        {"source": name, "file": file, "revision": revision},
        fetch,
        ", ".join(licence) if isinstance(licence, list) else licence,
    )


def _data_file(name: str, file: str | None, names: list[str]) -> str:
    """Choose the dataset's file: the one that `file` names, or the only data file."""
    found = sorted(one for one in names if one.lower().endswith(SUFFIXES))
    if file in found or (not file and len(found) == 1):
        return file or found[0]
    if not found:
        kinds = f"{', '.join(KINDS)}, each also .gz or .zst"
        raise click.ClickException(f"{name}: no data file ({kinds}); choose another dataset")
    more = f" and {len(found) - LISTED} more" if len(found) > LISTED else ""
    problem = f"no data file {file}" if file else f"{len(found)} data files"
    raise click.ClickException(f"{name}: {problem}; choose with --file among {', '.join(found[:LISTED])}{more}")


@contextmanager
def _hub_errors(name: str, revision: str) -> Iterator[None]:
    import httpx
    from huggingface_hub.errors import HFValidationError

    try:
        yield
    except (httpx.HTTPError, HFValidationError, OSError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise click.ClickException(
            f"{name} at {revision}: {reason}; check the name and hash, the network, and for gated datasets HF_TOKEN"
        ) from None
