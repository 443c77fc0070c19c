"""Print what stages run with: paths, versions, device, dtype and threads, each with its reason.

Run it with `make runtime` (`JSON=1` for JSON), or with `docker/run --no-log python -m tools.runtime`.
"""

import importlib.metadata
import json
import os
import platform
import sys
from pathlib import Path

import click

from stages.common import device

PACKAGES = ("torch", "transformers", "peft", "trl", "datasets", "llmcompressor", "dvc", "dvclive")


@click.command(help=__doc__)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
def main(as_json: bool) -> None:
    import torch

    place = device.choose()
    threads = os.environ.get("OMP_NUM_THREADS")
    contained = os.environ.get("RUNTIME") == "docker"
    where = "the image's, docker/Dockerfile" if contained else "VENV in the environment, else the checkout's .venv"
    facts = {
        "runtime": (os.environ.get("RUNTIME"), os.environ.get("RUNTIME_REASON")),
        "workspace": (str(Path.cwd()), "the current folder"),
        "python": (sys.executable, where),
        "python_version": (platform.python_version(), "the interpreter that made the environment"),
        **{name: (importlib.metadata.version(name), "requirements/pipeline.txt") for name in PACKAGES},
        "device": (place.name, place.reason),
        "dtype": (str(place.dtype), place.reason),
        "threads": (torch.get_num_threads(), f"OMP_NUM_THREADS={threads}, set by docker/run: bytes depend on it"),
        "cpu_kernels": (torch.backends.cpu.get_cpu_capability(), "ATEN_CPU_CAPABILITY, set by docker/run"),
        "mkl": (os.environ.get("MKL_CBWR"), "MKL_CBWR, set by docker/run: the same code on every processor"),
        "openblas": (
            os.environ.get("OPENBLAS_CORETYPE"),
            "OPENBLAS_CORETYPE, set by docker/run: the same code on every processor",
        ),
        "cores": (os.cpu_count(), "of the machine; bytes do not depend on it"),
    }
    if as_json:
        document = {name: {"value": value, "reason": reason} for name, (value, reason) in facts.items()}
        click.echo(json.dumps(document, indent=2))
        return
    width = max(map(len, facts))
    for name, (value, reason) in facts.items():
        click.echo(f"{name:{width}}  {value}  ({reason})")


if __name__ == "__main__":
    main()
