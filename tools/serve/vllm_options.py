"""vLLM options: those of `vllm serve` that params `serve.vllm` may set while the served model counts as proven.

An allow-list with types, from the parser of vLLM 0.32. What is listed changes speed, memory, lengths and defaults of
requests. What is not could serve other bytes, run code, open a port, or read or write a file or another host, or is
newer than this list. The keys of options that take a dictionary are listed, too, since some name classes to import.
tests/serve/test_vllm_options.py asks the parser of the installed vLLM for the same names and types.
"""

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Word:
    """A value that must be one of a few, or match a pattern."""

    choices: tuple[str, ...] = ()
    pattern: str = ""


# Names of parsers that vLLM registers itself: others come from a plugin, and plugins are not allowed.
PARSER = Word(pattern=r"[a-z0-9][a-z0-9_]*")
Kind = type | Word | dict[str, Any] | list[type]
OPTIONS: dict[str, Kind | tuple[Kind, ...]] = {
    # Lengths, and how much runs at the same time
    "max_model_len": (int, Word(("auto",))),
    "max_num_seqs": int,
    "max_num_batched_tokens": int,
    "max_num_queued_reqs": int,
    "max_num_queued_tokens": int,
    "long_prefill_token_threshold": int,
    "max_logprobs": int,
    "stream_interval": int,
    "sse_keep_alive_interval": int,
    "limit_mm_per_prompt": {"image": int, "video": int, "audio": int},
    # Speed and memory
    "dtype": Word(("auto", "bfloat16", "float", "float16", "float32", "half")),
    "kv_cache_dtype": Word(("auto", "bfloat16", "float16", "fp8", "fp8_e4m3", "fp8_e5m2")),
    "kv_cache_memory_bytes": int,
    "num_gpu_blocks_override": int,
    "gpu_memory_utilization": float,
    "cpu_offload_gb": float,
    "block_size": int,
    "enforce_eager": bool,
    "enable_prefix_caching": bool,
    "enable_chunked_prefill": bool,
    "async_scheduling": bool,
    "max_cudagraph_capture_size": int,
    "performance_mode": Word(("balanced", "interactivity", "throughput")),
    "compilation_config": {
        "mode": int,
        "cudagraph_mode": Word(("NONE", "PIECEWISE", "FULL", "FULL_DECODE_ONLY", "FULL_AND_PIECEWISE")),
        "cudagraph_capture_sizes": [int],
        "max_cudagraph_capture_size": int,
    },
    "speculative_config": {  # guesses from the prompt itself; other methods load another model
        "method": Word(("ngram",)),
        "num_speculative_tokens": int,
        "prompt_lookup_max": int,
        "prompt_lookup_min": int,
    },
    # Several GPUs of this machine
    "tensor_parallel_size": int,
    "pipeline_parallel_size": int,
    "enable_expert_parallel": bool,
    "disable_custom_all_reduce": bool,
    "distributed_executor_backend": Word(("mp", "uni")),  # ray opens ports, and any other word is a class
    "max_loras": int,
    "max_cpu_loras": int,
    # Requests and answers
    "seed": int,
    "generation_config": Word(("auto", "vllm")),  # any other word is a folder
    "override_generation_config": {
        "temperature": float,
        "top_p": float,
        "top_k": int,
        "min_p": float,
        "repetition_penalty": float,
        "max_new_tokens": int,
    },
    "chat_template_content_format": Word(("auto", "openai", "string")),
    "enable_auto_tool_choice": bool,
    "exclude_tools_when_tool_choice_none": bool,
    "tool_call_parser": PARSER,
    "tool_strict_level": Word(("auto", "function", "parameter")),
    "reasoning_parser": PARSER,
    "return_tokens_as_token_ids": bool,
    "enable_prompt_tokens_details": bool,
    "enable_force_include_usage": bool,
    "enable_request_id_headers": bool,
    # Logs
    "uvicorn_log_level": Word(("critical", "error", "warning", "info")),
    "disable_uvicorn_access_log": bool,
    "max_log_len": int,
}
# `make serve` sets these, so that the proven bytes are served where its own checks look.
OWN = {
    *("api_key", "config", "default_chat_template_kwargs", "disable_fastapi_docs", "enable_lora", "host"),
    *("load_format", "lora_modules", "max_lora_rank", "middleware", "model", "port", "served_model_name", "uds"),
}


def own_options(settings: dict[str, Any]) -> list[str]:
    """List the keys that only `make serve` itself may set, or that are not the plain name of an option.

    argparse takes the beginning of a name for the name, and vLLM's parser `name.part` and `name=value`, too.
    """
    return [
        key
        for key in settings
        if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", key)
        or any(own.startswith(key.removeprefix("no_")) for own in OWN)
    ]


def unsafe_options(settings: dict[str, Any]) -> Iterator[str]:
    """Yield the problem of each setting that is not in OPTIONS, or that is not of the type there.

    Args:
        settings: params `serve.vllm`, with underscores in its keys.

    Returns:
        One text per problem, which begins with the name of the option or of the key in it.
    """
    for key, value in settings.items():
        if key not in OPTIONS:
            yield f"{key}: not an option that is known to be safe{_near(key, OPTIONS)}"
        elif value is not None:
            yield from _misfits(key, value, OPTIONS[key])


def _misfits(key: str, value: Any, kind: Kind | tuple[Kind, ...]) -> Iterator[str]:
    if isinstance(kind, dict):
        if not isinstance(value, dict):
            yield f"{key}: must be keys with values (got {value!r})"
            return
        for name, part in value.items():
            if name not in kind:
                yield f"{key}.{name}: not a key that is known to be safe{_near(str(name), kind)}"
            else:
                yield from _misfits(f"{key}.{name}", part, kind[name])
    elif not any(_fits(value, one) for one in (kind if isinstance(kind, tuple) else (kind,))):
        yield f"{key}: must be {_words(kind)} (got {value!r})"


def _fits(value: Any, kind: Any) -> bool:
    if isinstance(kind, Word):
        return isinstance(value, str) and (value in kind.choices or bool(re.fullmatch(kind.pattern or "(?!)", value)))
    if isinstance(kind, list):
        return isinstance(value, list) and all(_fits(part, kind[0]) for part in value)
    if isinstance(value, bool) or kind is bool:
        return isinstance(value, bool) and kind is bool
    return isinstance(value, int | float if kind is float else kind)


def _words(kind: Any) -> str:
    if isinstance(kind, tuple):
        return " or ".join(map(_words, kind))
    if isinstance(kind, Word):
        return ", ".join(kind.choices) or "a name of small letters, digits and underscores"
    if isinstance(kind, list):
        return "a list of integers"
    return {bool: "true or false", int: "an integer", float: "a number"}[kind]


def _near(name: str, known: Any) -> str:
    close = difflib.get_close_matches(name, sorted(known), n=2)
    return f"; did you mean {' or '.join(close)}?" if close else ""
