"""Sources of rows: a dataset of the hub, an https:// address, a file. Each is found first and fetched later."""

import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from urllib.parse import unquote

import click

from stages.common import raw
from tools.common import addresses

LISTED = 20  # files of a dataset that an error names


class Source(NamedTuple):
    """One file of rows.

    Attributes:
        name: what the file is called where it lies.
        facts: what is recorded of it; where `revision` is not among them, the hash of its bytes takes that place.
        fetch: writes its bytes to a path, in a folder of which it may use the rest.
        licence: what its owner says, if anything.
    """

    name: str
    facts: dict[str, str]
    fetch: Callable[[Path], object]
    licence: str | None = None


def find(source: str, revision: str | None, file: str | None) -> Source:
    """Tell which kind of source this is, and check what can be checked before its bytes are fetched.

    Args:
        source: `owner/name` of a dataset, an address, or a path.
        revision: the dataset's commit hash.
        file: path of the file in the dataset; needed where it has several.

    Raises:
        click.ClickException: none of the three, or one that cannot or must not be fetched.
    """
    if not source:
        raise click.ClickException("SOURCE: empty; give a file, an https:// address, or owner/name on the hub")
    path = Path(source)
    named = re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", source, re.ASCII)
    if named and (revision or not (path.exists() or source.lower().endswith(raw.SUFFIXES))):
        return _dataset(source, revision, file)
    if revision or file:
        raise click.ClickException(f"{source}: --revision and --file need a dataset of the hub, such as owner/name")
    if "://" in source:
        url = addresses.parse(source)
        name = PurePosixPath(unquote(url.path)).name
        return Source(name, {"source": addresses.shown(url)}, lambda out: addresses.fetch(url, out))
    if path.is_dir():
        raise click.ClickException(f"{source}: a folder; name a file in it")
    if not path.exists():
        raise click.ClickException(
            f"{source}: no such file, and neither owner/name on the hub nor an https:// address"
        )
    return Source(path.name, {"source": path.name}, lambda out: shutil.copyfile(path, out))


def _dataset(name: str, revision: str | None, file: str | None) -> Source:
    import huggingface_hub

    if not revision or not re.fullmatch(r"[0-9a-f]{40}", revision):
        raise click.ClickException(
            f"{name}: --revision: {revision!r} is no full commit hash (40 hex digits), and a branch moves; get the "
            f"hash with `git ls-remote https://huggingface.co/datasets/{name} HEAD`"
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
    """Choose the dataset's file: the one asked for, or the only one with rows."""
    found = sorted(one for one in names if one.lower().endswith(raw.SUFFIXES))
    if file in found or (not file and len(found) == 1):
        return file or found[0]
    if not found:
        raise click.ClickException(f"{name}: no data file ({', '.join(raw.KINDS)}, each also .gz or .zst)")
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
