"""Model folder: checked before it is loaded, so that no file in it can run code and none lies elsewhere."""

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import click

from stages.common import files

SUFFIXES = (".jinja", ".json", ".md", ".model", ".safetensors", ".txt", ".yaml")  # .model: SentencePiece
# Keys whose value names Python code that comes with a model, or that a library fetches for it.
CODE_KEYS = ("auto_map", "custom_generate", "custom_pipelines", "trust_remote_code")
# Keys whose value is the name of a class.
CLASS_KEYS = (
    *("architectures", "feature_extractor_type", "image_processor_type", "processor_class", "slow_tokenizer_class"),
    *("tokenizer_class", "video_processor_type"),
)
# What `quantization_config.quant_method` may be: transformers and vLLM read these with code of their own.
QUANTISED = ("awq", "compressed-tensors", "fp8", "gptq", "mxfp4")
MEGATRON = "megatron.core"  # PEFT's default in every adapter; another name is imported


def require(folder: Path, command: str) -> None:
    """Fail unless a model folder exists and is safe to load.

    Args:
        folder: a folder in models/.
        command: the command that makes the folder, for messages.

    Raises:
        click.ClickException: no such folder; it holds a pickle, code, another unsupported file, or a link to a
            file outside; or its configuration names code that is not part of the libraries.
    """
    files.require(folder, command)
    inside = folder.resolve()
    for path in sorted(folder.rglob("*")):
        if not path.resolve().is_relative_to(inside):
            raise click.ClickException(
                f"{path}: links to {path.resolve()}, outside the folder; replace the link with the file, or run "
                f"`{command}`"
            )
        if path.is_file() and path.suffix not in SUFFIXES:
            raise click.ClickException(
                f"{path}: unsupported file type in a model folder (a pickle or code can run anything); delete it, or "
                f"run `{command}`"
            )
        refuse_code(
            path, str(path), f"get the model again with `{command}`", f"use a model without it, or run `{command}`"
        )


def refuse_code(path: Path, name: str, again: str, instead: str) -> None:
    """Fail when a JSON file of a model is damaged, or names what is not part of the libraries.

    Args:
        path: a file of the model. Those that are no configuration have no problem.
        name: what the message calls it.
        again: the next step when it is damaged.
        instead: the next step when it names code.

    Raises:
        click.ClickException: the problem and the next step.
    """
    if path.is_dir() or not path.name.endswith(("config.json", ".index.json")):
        return
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (RecursionError, ValueError) as error:
        raise click.ClickException(f"{name}{_damage(error)}; {again}") from None
    if path.name.endswith(".index.json"):
        problem = _foreign_weights(content)
    else:
        problem = next((found for key, value in _pairs(content) if (found := _foreign(key, value))), "")
    if problem:
        raise click.ClickException(f"{name}: {problem}; {instead}")


def _damage(error: RecursionError | ValueError) -> str:
    """Say where a file is not JSON, after its name."""
    if isinstance(error, json.JSONDecodeError):
        return f":{error.lineno}:{error.colno}: not JSON ({error.msg})"
    if isinstance(error, UnicodeDecodeError):
        return f": not UTF-8 ({error.reason} at byte {error.start})"
    return ": a number is too long or the nesting too deep"


def _pairs(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield every key of a JSON value with its value, at every depth."""
    waiting = [value]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            yield from part.items()
        if isinstance(part, dict | list):
            waiting += part.values() if isinstance(part, dict) else part


def _foreign(key: str, value: Any) -> str:
    if not value:
        return ""
    if key in CODE_KEYS:
        return f"{key}: names Python code of its own, which is never run"
    if key in CLASS_KEYS:
        names = value if isinstance(value, list) else [value]
        unknown = [name for name in names if not _is_known_class(name)]
        return f"{key}: {unknown[0]!r} is not a class of transformers" if unknown else ""
    if key == "quantization_config":
        method = value.get("quant_method") if isinstance(value, dict) else value
        known = ", ".join(QUANTISED)
        return "" if method in QUANTISED else f"{key}: quant_method: {method!r} is not one of {known}"
    if key.lstrip("_").startswith(("attn_implementation", "experts_implementation")):
        parts = value.values() if isinstance(value, dict) else [value]
        return f"{key}: {value!r} is downloaded code" if any("/" in str(part) for part in parts) else ""
    if key == "parent_library" and str(value).partition(".")[0] != "transformers":  # PEFT imports it
        return f"{key}: {value!r} is not transformers"
    if key == "megatron_config" or (key == "megatron_core" and value != MEGATRON):
        return f"{key}: {value!r} would be imported"
    return ""


def _foreign_weights(index: Any) -> str:
    """Weights lie beside their index: a path may lead out of the folder, and another suffix to a pickle."""
    names = (index.get("weight_map") or {}).values() if isinstance(index, dict) else ()
    wrong = [name for name in names if "/" in str(name) or not str(name).endswith(".safetensors")]
    return f"weight_map: {wrong[0]!r} is not a safetensors file beside it" if wrong else ""


def _is_known_class(name: Any) -> bool:
    # transformers 5 reads the names of older tokenizers, such as Qwen2TokenizerFast, without the suffix.
    return isinstance(name, str) and bool({name, name.removesuffix("Fast")} & _classes())


@cache
def _classes() -> frozenset[str]:
    """The names that transformers exports; none of their modules is imported for that."""
    import transformers

    return frozenset(dir(transformers))
