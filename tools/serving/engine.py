"""Engine: how vLLM is started on a model, from the section `serve` of params.yaml."""

import json
import os
from pathlib import Path
from typing import Annotated, Any, Literal

import click
from pydantic import Field

from stages.common import server, settings

KINDS = ("base", "merged", "awq")
# Keys of vllm serve that would serve other bytes than the proven ones, run code beside them, or open a door.
FIXED = {
    *("model", "tokenizer", "served_model_name", "revision", "tokenizer_revision", "code_revision", "config"),
    *("hf_config_path", "hf_overrides", "hf_token", "download_dir", "load_format", "chat_template", "lora_modules"),
    *("enable_lora", "max_lora_rank", "trust_remote_code", "trust_request_chat_template", "enable_prompt_embeds"),
    *("middleware", "logits_processors", "worker_cls", "worker_extension_cls", "scheduler_cls", "tool_parser_plugin"),
    *("reasoning_parser_plugin", "io_processor_plugin", "allowed_local_media_path", "host", "port", "uds", "api_key"),
    *("grpc", "enable_scale_out", "tool_server", "disable_fastapi_docs", "root_path"),
}
SPINNING = 2  # processes of vLLM that wait without sleeping: the engine, and its worker on a CPU
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # that vLLM has room for


class ServeParams(settings.Section):
    """The section `serve` of params.yaml; its sub-section `vllm` goes to `vllm serve` as it is."""

    model: Literal["base", "merged", "awq"]
    adapters: list[str]
    replicas: Annotated[int, Field(ge=1)]
    kv_cache_gib: Annotated[int, Field(ge=1)]
    retries: Annotated[int, Field(ge=0)]
    log_megabytes: Annotated[int, Field(ge=1)]
    vllm: dict[str, Any]


def load(path: Path) -> ServeParams:
    """Read the section.

    Raises:
        click.ClickException: a key that is not its own, or that serving sets itself.
    """
    params = settings.load(path, "serve", ServeParams)
    if fixed := sorted({key.replace("-", "_") for key in params.vllm} & FIXED):
        names = ", ".join(f"serve.vllm.{key}" for key in fixed)
        raise click.ClickException(f"{path}: {names}: `make serve` sets it, or it is unsafe; delete the line")
    return params


def command() -> Path:
    """Find vLLM's command.

    Raises:
        click.ClickException: there is none.
    """
    path = Path(os.environ.get("VLLM_VENV", ".serve/vllm")).absolute() / "bin" / "vllm"
    if not path.exists():
        raise click.ClickException(f"{path}: no vLLM; `make serve` installs it")
    return path


def arguments(params: ServeParams, name: str, adapters: dict[str, Path]) -> list[str]:
    """Give what follows `vllm serve FOLDER`, but for the address."""
    found = ["--served-model-name", name, "--load-format", "safetensors", "--disable-fastapi-docs"]
    for key, value in params.vllm.items():
        flag = key.replace("_", "-")
        if isinstance(value, bool):
            found.append(f"--{'' if value else 'no-'}{flag}")
        elif value is not None:
            found += [f"--{flag}", json.dumps(value) if isinstance(value, dict | list) else str(value)]
    if adapters:
        rank = max(
            json.loads((path / "adapter_config.json").read_text(encoding="utf-8"))["r"] for path in adapters.values()
        )
        found += ["--enable-lora", "--max-lora-rank", str(min(room for room in RANKS if room >= rank))]
        found += ["--lora-modules", *(f"{alias}={path}" for alias, path in adapters.items())]
    return found


def eager(params: ServeParams) -> str:
    """Give the value of TORCHDYNAMO_DISABLE: where nothing shall be compiled, nothing needs a compiler."""
    return str(int(bool(params.vllm.get("enforce_eager"))))


def spared(params: ServeParams, cores: int | None = None) -> dict[str, str]:
    """Give what leaves a core for the rest, where vLLM's processes that never sleep would take all.

    Their wait starves whoever else wants a core, for a second and more, so that answers do not stream. The worker
    then is part of the engine, and computes on all cores but one, unless OMP_NUM_THREADS says otherwise.

    Args:
        params: a model that is split over GPUs or hosts keeps its workers.
        cores: those of the machine, or None to look.
    """
    cores = cores or os.cpu_count() or 1
    split = any((params.vllm.get(key) or 1) > 1 for key in ("tensor_parallel_size", "pipeline_parallel_size"))
    if split or cores > SPINNING:
        return {}
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, cores - 1))
    return {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "OMP_NUM_THREADS": threads}


def variables(params: ServeParams, key: str) -> dict[str, str]:
    """Give vLLM's environment: nothing of ours that it would take for its own, no development mode, no network."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("VLLM_", "PYTHON"))}
    own = {
        "DO_NOT_TRACK": "1",
        "TORCHDYNAMO_DISABLE": eager(params),
        "VLLM_API_KEY": key,
        "VLLM_CPU_KVCACHE_SPACE": str(params.kv_cache_gib),
        "VLLM_HOST_IP": "127.0.0.1",  # its processes find each other there
        "VLLM_LOGGING_COLOR": "0",
    }
    return inherited | server.SETTINGS | spared(params) | own
