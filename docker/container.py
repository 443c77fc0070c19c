"""Container: the command line that runs one stage in a container, without any right that the stage does not need.

Environment, besides RUNTIME: MEMORY (for example 24g; default: no limit), SHM (shared memory of worker processes;
default 8g), GPUS (all, none or device=0,1; default: all, if the machine has any).
"""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

from runtime import has_gpu
from stage_variables import stage_variables

# The caller's variables that a stage sees, by their beginnings. Only base sees variables that name a secret.
PASSED = (
    "CUDA_",
    "DVCLIVE_",
    "DVC_EXP_",
    "DVC_ROOT",
    "MLFLOW_",
    "NCCL_",
    "NO_COLOR",
    "NVIDIA_",
    "PYTORCH_",
    "TORCH",
    "TQDM_",
    "VLLM_",
    "WANDB_",
)
SECRETS = ("KEY", "PASSWORD", "SECRET", "TOKEN")
# What base needs to reach a model hub: the hub's settings, proxies, and CA bundles.
HUB = ("HF_", "HUGGING_FACE_HUB_TOKEN")
PROXIES = ("ALL_PROXY", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
BUNDLES = ("CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE")


def container_name(stage: str) -> str:
    """Return the name of a stage's container: `docker ps` shows the stage, and the process of docker/run."""
    return f"lockstep-{stage.replace('@', '-')}-{os.getpid()}"


def docker_command(image: str, stage: str, home: Path, environment: dict[str, str]) -> list[str]:
    """Return the command line before the stage's own command: `docker run`, its options, and the image.

    Args:
        image: name of the image.
        stage: decides what the container may reach.
        home: the checkout.
        environment: the variables of the engine's client; those of the stage are taken from them.
    """
    return [
        *("docker", "run", "--rm", "--init", "--name", container_name(stage), "--hostname", container_name(stage)),
        *("--label", f"lockstep.stage={stage}", "--label", f"lockstep.home={home}"),
        *("--label", f"lockstep.log={environment.get('LOG_FOLDER', '')}"),
        *("--user", f"{os.getuid()}:{os.getgid()}", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"),
        *("--read-only", "--tmpfs", "/tmp:rw,exec,nosuid,nodev,mode=1777"),  # exec: Triton loads what it compiles
        *("--network", "host" if stage == "base" else "none"),  # host: a proxy may be on the loopback
        *("--shm-size", environment.get("SHM") or "8g"),
        *(("--memory", environment["MEMORY"]) if environment.get("MEMORY") else ()),
        *gpu_options(environment.get("GPUS", "")),
        *("--log-driver", "json-file", "--log-opt", "max-size=10m", "--log-opt", "max-file=3"),
        *(("--tty",) if sys.stdout.isatty() else ()),
        *mount_options(stage, home, environment),
        *variable_options(stage, home, environment),
        *("--workdir", str(Path.cwd()), image),
    ]


def gpu_options(wanted: str) -> tuple[str, ...]:
    """Return the option that passes GPUs to the container."""
    if wanted == "none" or not (wanted or has_gpu()):
        return ()
    # The engine splits the option at commas, so a list of devices needs quotes.
    return ("--gpus", f'"{wanted}"' if "," in wanted else wanted or "all")


def mount_options(stage: str, home: Path, environment: dict[str, str]) -> Iterator[str]:
    """List the options that mount folders, each at its own path, so that paths in logs are true outside too."""
    folders = {home, Path(__file__).resolve().parents[1], Path.cwd()}  # a temporary experiment works in a copy
    writable = [one for one in folders if not any(other in one.parents for other in folders)]
    readable = []
    if stage == "base":
        readable = list(ca_bundles(environment).values())
        cache = hub_cache(home, environment)
        writable += [cache] if cache.is_dir() and home not in cache.parents else []
    for path, option in [*((one, "") for one in writable), *((one, ",readonly") for one in set(readable))]:
        quoted = str(path).replace('"', '""')
        yield from ("--mount", f'type=bind,"source={quoted}","target={quoted}"{option}')


def hub_cache(home: Path, environment: dict[str, str]) -> Path:
    """Return the folder of the hub's downloads: the caller's if it exists, else one in the checkout."""
    theirs = Path(environment.get("HF_HOME") or "~/.cache/huggingface").expanduser().resolve()
    return theirs if theirs.is_dir() else home / ".scratch" / "huggingface"


def ca_bundles(environment: dict[str, str]) -> dict[str, Path]:
    """Return the existing CA bundles by their variables."""
    return {key: Path(environment[key]).resolve() for key in BUNDLES if Path(environment.get(key, "")).is_file()}


def variable_options(stage: str, home: Path, environment: dict[str, str]) -> Iterator[str]:
    """List the options that set the stage's variables: fixed ones by value, the caller's by name."""
    fixed = stage_variables(stage) | {"DVC_SITE_CACHE_DIR": "/tmp/dvc", "HOME": "/tmp", "USER": "lockstep"}
    fixed["HF_HOME"] = str(hub_cache(home, environment) if stage == "base" else home / ".scratch" / "huggingface")
    given = {key for key in environment if key.startswith(PASSED) and not any(word in key for word in SECRETS)}
    given |= {"LOG_FOLDER", "RUNTIME", "RUNTIME_REASON"} & set(environment)
    if stage == "base":
        given |= {key for key in environment if key.startswith(HUB) or key.upper() in PROXIES}
        fixed |= {key: str(path) for key, path in ca_bundles(environment).items()}
    for key, value in sorted(fixed.items()):
        yield from ("--env", f"{key}={value}")
    for key in sorted(given - set(fixed)):
        yield from ("--env", key)
