"""vLLM command: the command line and the environment of `vllm serve`, from the section `serve` of params.yaml."""

import hashlib
import hmac
import json
import os
from pathlib import Path
from typing import Any

import click

from stages.base import template_kwargs
from stages.common import adapter_config, files
from stages.eval.server_variables import COMPUTE, REFUSING_PROXY, SYSTEM, inherited
from stages.eval.vllm_server import SETTINGS
from tools.serve.params import ServeParams

BUSY_PROCESSES = 2  # processes of vLLM that wait without sleeping: the engine, and its worker on a CPU
MIDDLEWARE = Path("docker/middleware")  # on vLLM's path
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # the values that --max-lora-rank accepts


def find_vllm() -> Path:
    """Return the path of vLLM's command: in VLLM_VENV, or else in .serve/vllm.

    Raises:
        click.ClickException: vLLM is not installed there.
    """
    path = Path(os.environ.get("VLLM_VENV", ".serve/vllm")).absolute() / "bin" / "vllm"
    if not path.exists():
        raise click.ClickException(f"{path}: vLLM is not installed; `make serve` installs it")
    return path


def vllm_arguments(
    params: ServeParams, name: str, adapters: dict[str, Path], place: str = "", folder: Path | None = None
) -> list[str]:
    """Return the arguments that follow `vllm serve FOLDER`, except the address.

    Args:
        params: the settings.
        name: the name under which the model is served.
        adapters: LoRA folders by the names under which they are served beside it.
        place: what leads to these names from the folder that vLLM runs in; clients see it.
        folder: the model, whose template may hold settings (base.template_kwargs). vLLM's parsers of reasoning ask
            for them, too.
    """
    found = ["--served-model-name", name, "--load-format", "safetensors", "--disable-fastapi-docs"]
    found += ["--middleware", "request_limits.RequestLimits"]
    for key, value in params.vllm.items():
        flag = key.replace("_", "-")
        if isinstance(value, bool):
            found.append(f"--{'' if value else 'no-'}{flag}")
        elif value is not None:
            # One word, so that no value is taken for an option.
            found.append(f"--{flag}={json.dumps(value) if isinstance(value, dict | list) else value}")
    template = folder / "chat_template.jinja" if folder else None
    if template and template.exists() and (settings := template_kwargs.read(template.read_text(encoding="utf-8"))):
        found.append(f"--default-chat-template-kwargs={json.dumps(settings, sort_keys=True)}")
    if adapters:
        rank = max(_rank(files.read_json(path / adapter_config.CONFIG)) for path in adapters.values())
        found += ["--enable-lora", "--max-lora-rank", str(min(accepted for accepted in RANKS if accepted >= rank))]
        found += ["--lora-modules", *(f"{alias}={place}{alias}" for alias in adapters)]
    return found


def require_servable(adapter: Path) -> None:
    """Fail where vLLM does not serve an adapter unmerged, before anything starts.

    Args:
        adapter: an adapter that merge supports, or the model of a full fine-tuning.

    Raises:
        click.ClickException: it is a whole model, or has what vLLM does not apply at run time.
    """
    instead = "; serve what it is merged into: `make serve MODEL=merged`"
    if not (adapter / adapter_config.CONFIG).exists():
        raise click.ClickException(f"models/adapter: a whole model, as `train.method: full` leaves it{instead}")
    config = files.read_json(adapter / adapter_config.CONFIG)
    unsupported = [key for key in ("lora_bias", "modules_to_save", "use_dora") if config.get(key)]
    unsupported += ["bias"] if config.get("bias", "none") != "none" else []
    unsupported += [f"rank {_rank(config)}, above {RANKS[-1]}"] if _rank(config) > RANKS[-1] else []
    if unsupported:
        raise click.ClickException(
            f"models/adapter: vLLM does not apply {', '.join(unsupported)} unmerged{instead}, or train without it"
        )


def _rank(config: dict[str, Any]) -> int:
    """Return the highest rank of an adapter's layers."""
    return max([config["r"], *(config.get("rank_pattern") or {}).values()])


def user_key(secret: str) -> str:
    """Derive the key by which the chat page signs who asks; with the page's own key one could sign in."""
    return hmac.new(secret.encode(), b"the user that asks", hashlib.sha256).hexdigest()


def request_limits(params: ServeParams, secret: str, adapters: bool) -> str:
    """Return what docker/middleware/request_limits.py reads from REQUEST_LIMITS.

    Args:
        params: the settings.
        secret: WEBUI_SECRET_KEY of .env.
        adapters: whether adapters are served; then vLLM 0.32 ends at a request for the log-probabilities of a prompt.
    """
    own = {"places": params.places, "prompt_logprobs": not adapters, "user_key": user_key(secret)}
    return json.dumps(params.limits.model_dump() | own)


def dynamo_disabled(params: ServeParams) -> str:
    """Return the value of TORCHDYNAMO_DISABLE: with enforce_eager nothing is compiled and no compiler is needed."""
    return str(int(bool(params.vllm.get("enforce_eager"))))


def leave_a_core(params: ServeParams, cores: int | None = None) -> dict[str, str]:
    """Return the variables that keep one core free on a machine of few cores.

    vLLM's engine and worker wait without sleeping. On two cores they take both: the API and nginx then wait a second
    and more, and answers do not stream. With these variables the worker is part of the engine, and computes on all
    cores except one, unless OMP_NUM_THREADS says otherwise.

    Args:
        params: a model that is split over GPUs or machines keeps its workers.
        cores: number of cores; None: those of this machine.
    """
    cores = cores or os.cpu_count() or 1
    split = any((params.vllm.get(key) or 1) > 1 for key in ("tensor_parallel_size", "pipeline_parallel_size"))
    if split or cores > BUSY_PROCESSES:
        return {}
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, cores - 1))
    return {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "OMP_NUM_THREADS": threads}


def vllm_variables(params: ServeParams, settings: dict[str, str], adapters: bool = False) -> dict[str, str]:
    """Return vLLM's environment: what a server may know of ours, the key, the limits, and no network.

    Args:
        params: the settings.
        settings: the keys of .env; of these, the key that clients must send.
        adapters: whether adapters are served.
    """
    own = {
        "DO_NOT_TRACK": "1",
        "PYTHONPATH": str(MIDDLEWARE.absolute()),
        "REQUEST_LIMITS": request_limits(params, settings["WEBUI_SECRET_KEY"], adapters),
        "TORCHDYNAMO_DISABLE": dynamo_disabled(params),
        "VLLM_API_KEY": settings["API_KEY"],
        "VLLM_CPU_KVCACHE_SPACE": str(params.kv_cache_gib),
        "VLLM_LOGGING_COLOR": "0",
    }
    return inherited(*SYSTEM, *COMPUTE) | REFUSING_PROXY | SETTINGS | leave_a_core(params) | own
