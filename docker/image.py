#!/usr/bin/env python3
"""Find the image of a target of docker/Dockerfile by the hash of its inputs; pull or build it if it is missing.

    docker/image.py TARGET...    prints the names of the images

Environment: BASE_IMAGE (default: a CUDA image on a machine with a GPU, else plain Debian), REGISTRY (for example
registry.example/lockstep: images are pulled from there before they are built), SSL_CERT_FILE (a CA bundle for the
build's downloads), PIP_INDEX_URL, the usual proxy variables. Wheels of locked versions come from pip's `find-links`
folder.
"""

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from container import PROXIES
from runtime import has_gpu

ROOT = Path(__file__).resolve().parents[1]
PLAIN = "debian:bookworm-20260918-slim"  # Python 3.11
# The lists of versions that a target installs. The Dockerfile and the groups in pyproject.toml are inputs too.
LOCKS = {
    "trainer": ["pipeline.txt"],
    "awq": ["pipeline.txt"],
    "vllm": ["serve.txt", "serve-overrides.txt", "vllm/pyproject.toml", "vllm/allow_amx.py"],
    "open-webui": ["webui.txt", "webui-overrides.txt"],
    "proxy": [],
}
WHEELS = ROOT / ".scratch" / "wheels"


def find_stage_image(stage: str) -> str:
    """Return the image that a stage runs in. Only awq needs llm-compressor; tools get the image that has it too."""
    without = ("base", "preprocess", "train", "merge", "eval", "compare", "report")
    return find_image("trainer" if stage.partition("@")[0] in without else "awq")


def find_image(target: str) -> str:
    """Return the name of a target's image. The image exists when this returns."""
    name = f"lockstep-{target}:{fingerprint(target)}"
    if exists(name):
        return name
    WHEELS.parent.mkdir(exist_ok=True)
    with (WHEELS.parent / "images.lock").open("w", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # two stages may need it at the same time
        if not exists(name) and not pull(name):
            build(target, name)
    return name


def base_image() -> str:
    """Return the image that all targets are built on; empty for the one in the Dockerfile."""
    return os.environ.get("BASE_IMAGE") or ("" if has_gpu() else PLAIN)


def fingerprint(target: str) -> str:
    """Hash everything that decides what an image contains."""
    settings = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    groups = re.search(r"^\[dependency-groups\]\n(.*?)(?=^\[)", settings, re.MULTILINE | re.DOTALL)
    parts = [(ROOT / name).read_text(encoding="utf-8") for name in ("docker/Dockerfile", "docker/install")]
    parts += [groups[1] if groups else "", lock(target), base_image()]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]


def lock(target: str) -> str:
    """Return the lists of versions that a target installs."""
    return "\0".join((ROOT / "requirements" / name).read_text(encoding="utf-8") for name in LOCKS[target])


def exists(name: str) -> bool:
    """Whether the engine has an image of this name."""
    command = ["docker", "image", "inspect", "--format", "{{.Id}}", name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        sys.exit("docker/run: RUNTIME=docker, but there is no `docker` command; RUNTIME=local works without")
    if done.returncode and "no such image" not in done.stderr.lower():
        sys.exit(f"docker/run: {done.stderr.strip()}")
    return done.returncode == 0


def pull(name: str) -> bool:
    """Pull an image from REGISTRY, if that is set, and give it its short name; return whether it was there."""
    registry = os.environ.get("REGISTRY", "").rstrip("/")
    if (
        not registry
        or subprocess.run(["docker", "pull", f"{registry}/{name}"], stdout=sys.stderr, check=False).returncode
    ):
        return False
    subprocess.run(["docker", "tag", f"{registry}/{name}", name], check=True)
    return True


def build(target: str, name: str) -> None:
    """Build an image. The output goes to stderr, as it does not belong to a stage."""
    print(f"building {name}, once for these inputs; it takes some minutes", file=sys.stderr, flush=True)
    collect_wheels()
    revision = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    arguments = {"REVISION": revision.stdout.strip(), "LOCK": hashlib.sha256(lock(target).encode()).hexdigest()}
    arguments |= {"BASE_IMAGE": base_image()} if base_image() else {}
    passed = [key for key in os.environ if key.upper() in PROXIES]
    command = [
        *("docker", "build", "--quiet", "--network", "host", "--file", "docker/Dockerfile", "--target", target),
        *("--tag", name, *(f"--build-arg={key}={value}" for key, value in arguments.items())),
        *(f"--build-arg={key}" for key in passed),
        *([f"--secret=id=ca,src={os.environ['SSL_CERT_FILE']}"] if os.environ.get("SSL_CERT_FILE") else ()),
        *(["--secret=id=index,env=PIP_INDEX_URL"] if os.environ.get("PIP_INDEX_URL") else ()),
        ".",
    ]
    environment = os.environ | {"DOCKER_BUILDKIT": "1"}
    if subprocess.run(command, cwd=ROOT, env=environment, stdout=sys.stderr, check=False).returncode:
        sys.exit(f"docker/run: {name} was not built; its error is above")


def collect_wheels() -> None:
    """Copy wheels of locked versions to .scratch/wheels, where a build sees them; link them where possible."""
    shutil.rmtree(WHEELS, ignore_errors=True)
    WHEELS.mkdir(parents=True)
    lists = [path.read_text(encoding="utf-8").splitlines() for path in sorted((ROOT / "requirements").glob("*.txt"))]
    locked = {line.split(";")[0].strip() for lines in lists for line in lines}
    for wheel in (path for folder in find_links() for path in sorted(Path(folder).glob("*.whl"))):
        name, version = wheel.name.split("-")[:2]
        if f"{name.lower().replace('_', '-')}=={version.partition('+')[0]}" in locked:
            try:
                os.link(wheel, WHEELS / wheel.name)
            except OSError:
                shutil.copy(wheel, WHEELS / wheel.name)


def find_links() -> list[str]:
    """Return the folders in pip's find-links setting."""
    binaries = Path(os.environ.get("VENV", ROOT / ".venv")) / "bin"
    pip = [str(binaries / "pip")] if (binaries / "pip").exists() else [sys.executable, "-m", "pip"]
    done = subprocess.run([*pip, "config", "list"], capture_output=True, text=True, check=False)
    settings = re.findall(r"find-links='(.*)'", done.stdout)
    found = {part for setting in settings for part in re.split(r"\s+|\\n", setting) if Path(part).is_dir()}
    return sorted(found - {""})


if __name__ == "__main__":
    for wanted in sys.argv[1:]:
        found = find_image(wanted)
        # The name in docker/compose.yaml.
        subprocess.run(["docker", "tag", found, f"lockstep-{wanted}:latest"], check=True)
        print(found)
