"""Base model: its shapes, tokenizer and sizes before `make repro` has it, from as few bytes as tell them.

The model folder that is made here has config.json and, as far as they are at hand, the chat files: of models/base
where it is up to date, else of the built-in model, of the folder that the params name, of the first megabytes of a
GGUF file, or of the hub's cache. Of a model that is only on the hub, config.json and the sizes of the files are
asked for, and nothing else.
"""

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import click

from stages.base import chat_files, gguf_model, hub, model_files
from stages.base.params import BaseParams
from stages.common import chat, files

GGUF_HEAD = 16 * 2**20  # bytes of a GGUF file that hold its entries: its words and their merges, 2 to 10 MB
WAIT = 20.0  # seconds for an answer of the hub or of a package index


class Base(NamedTuple):
    """What is known of the base model.

    Attributes:
        folder: a model folder with config.json, without weights.
        known: where this is from, as the plan says it.
        has_chat: whether the folder has tokenizer and chat template, too.
        download_bytes: what base downloads; None where nobody could be asked.
        dtype: of the stored weights; empty for that of config.json.
    """

    folder: Path
    known: str
    has_chat: bool
    download_bytes: int | None = 0
    dtype: str = ""


def describe_base(params: Path, config: BaseParams, folder: Path, is_made: bool) -> Base:
    """Find out what the base model will be.

    Args:
        params: the params file, for messages.
        config: its base section.
        folder: an empty folder.
        is_made: whether models/base is that model.

    Raises:
        click.ClickException: the model is not known: its source is wrong, or cannot be reached.
    """
    own = chat_files.read_own(params, config, Path("data/templates"))
    if is_made:
        model_files.take(Path("models/base"), [*model_files.SMALL], folder)
        return Base(folder, "models/base", True)
    if config.source == "tiny":
        from stages.base.tiny_model import build_tiny

        with quiet():
            build_tiny(config.tiny.model_copy(update={"steps": 1}), folder)
        chat_files.prepare(config, folder, folder, own)
        return Base(folder, "base.tiny", True)
    if config.source == "folder":
        source = Path(config.folder or "")
        model_files.check(f"base.folder: {source}", source)
        model_files.take(source, list(model_files.SMALL), folder)
        chat_files.prepare(config, folder, source, own)
        return Base(folder, str(source), True)
    if config.source == "gguf":
        gguf_model.require_pinned(params, config.gguf)
        download = read_gguf(config, folder)
        chat_files.prepare(config, folder, folder, own)
        return Base(folder, config.gguf.package or str(config.gguf.file), True, download, config.gguf.dtype)
    return from_hub(params, config, folder, own)


def from_hub(params: Path, config: BaseParams, folder: Path, own: str) -> Base:
    """Read config.json and the sizes of a model on a hub; from the hub's cache alone where it cannot be reached."""
    record = hub.pinned(params, config)
    name, revision = record["id"], record["revision"]
    if config.source == "modelscope":
        raise click.ClickException(f"base.id: {name}: ModelScope is not asked before `dvc repro base`")
    import huggingface_hub
    from huggingface_hub import errors
    from huggingface_hub.errors import HfHubHTTPError

    small = list(model_files.SMALL)
    size: int | None = None
    try:
        found = huggingface_hub.HfApi().model_info(name, revision=revision, files_metadata=True, timeout=WAIT)
        sizes = {one.rfilename: one.size for one in found.siblings or []}
        wanted = [one for one in sizes if one in small or one.endswith(".safetensors")]
        huggingface_hub.hf_hub_download(name, "config.json", revision=revision)
        here = [one for one in wanted if isinstance(cached(name, one, revision), str)]
        missing = [sizes[one] for one in wanted if one not in here]
        size = sum(one for one in missing if one) if None not in missing else None
    except (errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError, HfHubHTTPError, OSError, ValueError):
        pass  # the cache may have it
    kept = cached(name, "config.json", revision)
    if not isinstance(kept, str):
        raise click.ClickException(
            f"base.id: {name} at {revision}: not in the cache {huggingface_hub.constants.HF_HUB_CACHE}, and "
            f"{huggingface_hub.constants.ENDPOINT} cannot be asked: is this machine offline, or the id wrong?"
        )
    source = Path(kept).parent
    model_files.take(source, small, folder)
    has_chat = (source / "tokenizer.json").exists()
    if has_chat:
        chat_files.prepare(config, folder, source, own)
    return Base(folder, f"{name} at {revision[:8]}", has_chat, size)


def cached(name: str, file: str, revision: str) -> Any:
    """Return the place of a model's file in the hub's cache, None or a marker where it is not there."""
    import huggingface_hub

    return huggingface_hub.try_to_load_from_cache(name, file, revision=revision)


def read_gguf(config: BaseParams, folder: Path) -> int:
    """Write config.json and the chat files of a GGUF file, from its first megabytes.

    Returns:
        The bytes that base downloads.

    Raises:
        click.ClickException: the file cannot be had or is not supported.
    """
    import transformers

    gguf = config.gguf
    scratch = folder.with_name(f"{folder.name}.gguf")
    scratch.mkdir()
    try:
        file = scratch / "model.gguf"
        if gguf.package:
            head, size, download = head_in_package(gguf.package, str(gguf.file))
            file.write_bytes(head)
            os.truncate(file, size)  # the rest is zeros, and takes no disk
        else:
            file.symlink_to(Path(str(gguf.file)).resolve())
            download = 0
        gguf_model.write_tokenizer(gguf_model.read_entries(file), folder)
        try:
            transformers.AutoConfig.from_pretrained(scratch, gguf_file=file.name).save_pretrained(folder)
        except (ValueError, KeyError, RuntimeError, OSError) as error:
            problem = (str(error) or type(error).__name__).splitlines()[0]
            raise click.ClickException(
                f"base.gguf.file: {gguf.file}: transformers cannot read it ({problem})"
            ) from None
        known = files.read_json(folder / "config.json")
        known.pop("quantization_config", None)
        files.write_json(folder / "config.json", known | {"dtype": gguf.dtype})
        return download
    finally:
        shutil.rmtree(scratch)


def head_in_package(package: str, name: str) -> tuple[bytes, int, int]:
    """Read the first bytes of a file in a wheel on a package index, by HTTP range requests.

    Returns:
        Its first GGUF_HEAD bytes, its size, and the size of the wheel.

    Raises:
        click.ClickException: the index cannot be reached, or does not answer such requests.
    """
    import httpx

    where = wheel_address(package)
    if where.startswith("file:"):
        return head_in_wheel(Path(httpx.URL(where).path), package, name)
    try:
        with httpx.Client(follow_redirects=True, timeout=WAIT) as client:
            tail = client.get(where, headers={"Range": "bytes=-65536"})
            total = int(tail.headers["content-range"].rpartition("/")[2])
            entry = entry_of(io.BytesIO(tail.content), package, name)
            # The offsets in the list of files are those of the whole wheel.
            start = entry.header_offset + total - len(tail.content)
            stop = start + 1024 + GGUF_HEAD
            packed = client.get(where, headers={"Range": f"bytes={start}-{min(stop, total) - 1}"}).content
    except (httpx.HTTPError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise click.ClickException(
            f"base.gguf.package: {package}: no answer of its index ({type(error).__name__}); is this machine offline?"
        ) from None
    begin = 30 + int.from_bytes(packed[26:28], "little") + int.from_bytes(packed[28:30], "little")
    body = packed[begin:]
    head = body if entry.compress_type == zipfile.ZIP_STORED else zlib.decompressobj(-15).decompress(body, GGUF_HEAD)
    return head[:GGUF_HEAD], entry.file_size, total


def head_in_wheel(wheel: Path, package: str, name: str) -> tuple[bytes, int, int]:
    """Read the same from a wheel on disk, of which nothing is downloaded."""
    with wheel.open("rb") as file:
        entry = entry_of(file, package, name)
    with zipfile.ZipFile(wheel) as archive, archive.open(name) as stream:
        return stream.read(GGUF_HEAD), entry.file_size, 0


def entry_of(file: Any, package: str, name: str) -> zipfile.ZipInfo:
    """Find a file in the list at the end of a wheel."""
    with zipfile.ZipFile(file) as archive:
        if name not in archive.namelist():
            held = ", ".join(one for one in archive.namelist() if one.endswith(".gguf")) or "no .gguf file"
            raise click.ClickException(f"base.gguf.file: {name} is not in {package}; it has {held}")
        return archive.getinfo(name)


def wheel_address(package: str) -> str:
    """Ask pip where the wheel of a package is, by its own settings; it downloads the metadata alone."""
    command = (
        *(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--dry-run", "--no-deps"),
        *("--ignore-installed", "--only-binary", ":all:", "--report", "-", "--", package),
    )
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=3 * WAIT, check=False)
    except subprocess.TimeoutExpired:
        raise click.ClickException(
            f"base.gguf.package: {package}: pip got no answer; is this machine offline?"
        ) from None
    if done.returncode:
        told = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or ["pip failed"]
        raise click.ClickException(f"base.gguf.package: {package}: {told[0].removeprefix('ERROR: ')}")
    return str(json.loads(done.stdout)["install"][0]["download_info"]["url"])


def quiet() -> Any:
    """Keep progress bars off the terminal."""
    return contextlib.redirect_stderr(io.StringIO())


def load_chat(base: Base) -> chat.ChatTokenizer | None:
    """Load tokenizer and chat template, None where they are not known."""
    return chat.load(base.folder) if base.has_chat else None
