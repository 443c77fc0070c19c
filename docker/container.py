"""Container: the command line that runs one stage in one, with no right that it does not need.

Besides RUNTIME, these variables say how: MEMORY (such as 24g; default: no limit), SHM (shared memory of worker
processes; default 8g), GPUS (all, none or device=0,1; default: all where there are some).
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import environment as variable
import runtime

# The caller's variables that a stage sees. None that names a secret passes, but to base.
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
# What base needs to reach a model hub: its own settings, the way through a proxy, and whom to trust.
HUB = ("HF_", "HUGGING_FACE_HUB_TOKEN")
PROXIES = ("ALL_PROXY", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
BUNDLES = ("CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE")


def name(stage: str) -> str:
    """Name a stage's container: `docker ps` shows which stage, and of which process of docker/run."""
    return f"lockstep-{stage.replace('@', '-')}-{os.getpid()}"


def command_line(image: str, stage: str, home: Path, environment: dict[str, str]) -> list[str]:
    """Give the start of a command line, up to the command that is to run in the container.

    Args:
        image: what the container is made of.
        stage: decides what it may reach.
        home: the checkout.
        environment: the variables that the engine's client will see; those of the stage are taken from it.
    """
    return [
        *("docker", "run", "--rm", "--init", "--name", name(stage), "--hostname", name(stage)),
        *("--label", f"lockstep.stage={stage}", "--label", f"lockstep.home={home}"),
        *("--label", f"lockstep.log={environment.get('LOG_FOLDER', '')}"),
        *("--user", f"{os.getuid()}:{os.getgid()}", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"),
        *("--read-only", "--tmpfs", "/tmp:rw,exec,nosuid,nodev,mode=1777"),  # exec: Triton loads what it compiles
        *("--network", "host" if stage == "base" else "none"),  # host: a proxy on this machine's loopback counts, too
        *("--shm-size", environment.get("SHM") or "8g"),
        *(("--memory", environment["MEMORY"]) if environment.get("MEMORY") else ()),
        *gpus(environment.get("GPUS", "")),
        *("--log-driver", "json-file", "--log-opt", "max-size=10m", "--log-opt", "max-file=3"),
        *(("--tty",) if sys.stdout.isatty() else ()),
        *mounts(stage, home, environment),
        *variables(stage, home, environment),
        *("--workdir", str(Path.cwd()), image),
    ]


def gpus(wanted: str) -> tuple[str, ...]:
    """Give the option that hands on GPUs."""
    if wanted == "none" or not (wanted or runtime.has_gpu()):
        return ()
    # The engine splits at commas: a list of devices needs quotes.
    return ("--gpus", f'"{wanted}"' if "," in wanted else wanted or "all")


def mounts(stage: str, home: Path, environment: dict[str, str]) -> Iterator[str]:
    """Give the options that mount folders, each at its own path, so that nothing in a log has to be translated."""
    folders = {home, Path(__file__).resolve().parents[1], Path.cwd()}  # a temporary experiment works in a copy
    writable = [one for one in folders if not any(other in one.parents for other in folders)]
    readable = []
    if stage == "base":
        readable = list(bundles(environment).values())
        cache = hub_cache(home, environment)
        writable += [cache] if cache.is_dir() and home not in cache.parents else []
    for path, option in [*((one, "") for one in writable), *((one, ",readonly") for one in set(readable))]:
        quoted = str(path).replace('"', '""')
        yield from ("--mount", f'type=bind,"source={quoted}","target={quoted}"{option}')


def hub_cache(home: Path, environment: dict[str, str]) -> Path:
    """Give the folder of the hub's downloads: the caller's if there is one, else one in the checkout."""
    theirs = Path(environment.get("HF_HOME") or "~/.cache/huggingface").expanduser().resolve()
    return theirs if theirs.is_dir() else home / ".scratch" / "huggingface"


def bundles(environment: dict[str, str]) -> dict[str, Path]:
    """Give the files that say whom to trust, by their variables."""
    return {key: Path(environment[key]).resolve() for key in BUNDLES if Path(environment.get(key, "")).is_file()}


def variables(stage: str, home: Path, environment: dict[str, str]) -> Iterator[str]:
    """Give the options that set the stage's variables: fixed ones by value, the caller's by name."""
    fixed = variable.of_stage(stage) | {"DVC_SITE_CACHE_DIR": "/tmp/dvc", "HOME": "/tmp", "USER": "lockstep"}
    fixed["HF_HOME"] = str(hub_cache(home, environment) if stage == "base" else home / ".scratch" / "huggingface")
    given = {key for key in environment if key.startswith(PASSED) and not any(word in key for word in SECRETS)}
    given |= {"LOG_FOLDER", "RUNTIME", "RUNTIME_REASON"} & set(environment)
    if stage == "base":
        given |= {key for key in environment if key.startswith(HUB) or key.upper() in PROXIES}
        fixed |= {key: str(path) for key, path in bundles(environment).items()}
    for key, value in sorted(fixed.items()):
        yield from ("--env", f"{key}={value}")
    for key in sorted(given - set(fixed)):
        yield from ("--env", key)


def remove(stage: str) -> None:
    """Remove the container, should the engine's client have ended before it."""
    subprocess.run(["docker", "rm", "--force", name(stage)], capture_output=True, check=False)
