"""Images: found by the hash of their inputs, built when missing, and without anything that they should not hold."""

import json
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from needs import has_gpu, missing

Run = Callable[..., "subprocess.CompletedProcess[str]"]
pytestmark = pytest.mark.slow


def find(
    checkout: Path, environment: dict[str, str], target: str = "trainer", **variables: str
) -> "subprocess.CompletedProcess[str]":
    command = ["docker/image.py", target]
    return subprocess.run(command, cwd=checkout, env=environment | variables, capture_output=True, text=True)


def config(image: str) -> dict[str, Any]:
    shown = subprocess.run(["docker", "image", "inspect", image], capture_output=True, text=True, check=True)
    return json.loads(shown.stdout)[0]


def test_a_change_in_stages_needs_no_other_image(
    checkout: Path, environment: dict[str, str], images: dict[str, str]
) -> None:
    (checkout / "stages" / "train" / "model.py").write_text("print('another')", encoding="utf-8")
    (checkout / "requirements" / "dev.txt").write_text("other==1", encoding="utf-8")
    done = find(checkout, environment)
    assert (done.stdout, done.stderr) == (images["trainer"] + "\n", "")


def test_another_lock_another_dockerfile_and_other_groups_need_another(
    checkout: Path, environment: dict[str, str], images: dict[str, str]
) -> None:
    """An image that cannot be built is one line, with the name that it would have."""
    changes = {
        "requirements/pipeline.txt": "torch==0.0.1\n",
        "docker/Dockerfile": "FROM none\n",
        "pyproject.toml": "",
    }
    names = {images["trainer"]}
    for path, text in changes.items():
        before = (checkout / path).read_text(encoding="utf-8")
        (checkout / path).write_text(text, encoding="utf-8")
        done = find(checkout, environment)
        (checkout / path).write_text(before, encoding="utf-8")
        assert done.returncode == 1
        last = done.stderr.splitlines()[-1]
        assert last.endswith(" was not built; its error is above")
        names.add(last.split()[1])
    assert len(names) == len(changes) + 1


def test_an_image_that_the_registry_lacks_is_built(
    checkout: Path, environment: dict[str, str], images: dict[str, str]
) -> None:
    """From the layers that the engine has."""
    name, aside = images["trainer"], "lockstep-test-aside"
    subprocess.run(["docker", "tag", name, aside], check=True)
    subprocess.run(["docker", "image", "rm", name], check=True, capture_output=True)
    done = find(checkout, environment, REGISTRY="127.0.0.1:9/nowhere")
    subprocess.run(["docker", "tag", aside, name], check=True)
    subprocess.run(["docker", "image", "rm", aside], check=True, capture_output=True)
    assert (done.returncode, done.stdout) == (0, f"{name}\n")
    assert "127.0.0.1:9" in done.stderr
    assert f"building {name}" in done.stderr


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    """The address of a registry on the loopback interface."""
    if not shutil.which("docker-registry"):
        missing("registry")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    settings = {
        "version": 0.1,
        "storage": {"filesystem": {"rootdirectory": str(tmp_path / "images")}},
        "http": {"addr": address},
    }
    (tmp_path / "registry.yml").write_text(json.dumps(settings), encoding="utf-8")
    command = ["docker-registry", "serve", str(tmp_path / "registry.yml")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    yield f"{address}/team"
    process.kill()
    process.wait()


def test_an_image_that_the_registry_has_is_not_built(
    checkout: Path, environment: dict[str, str], registry: str
) -> None:
    name = find(checkout, environment, "proxy").stdout.strip()
    there = f"{registry}/{name}"
    subprocess.run(["docker", "tag", name, there], check=True)
    subprocess.run(["docker", "push", "--quiet", there], check=True, capture_output=True)
    gone = [name, there, "lockstep-proxy:latest"]
    subprocess.run(["docker", "image", "rm", *gone], check=True, capture_output=True)
    done = find(checkout, environment, "proxy", REGISTRY=registry)
    assert (done.returncode, done.stdout) == (0, f"{name}\n")
    assert "Downloaded newer image" in done.stderr
    assert "building" not in done.stderr
    assert config(name)["Id"] == config("lockstep-proxy:latest")["Id"]
    subprocess.run(["docker", "image", "rm", there], check=True, capture_output=True)


def test_it_holds_no_root_no_compiler_and_no_installer(run: Run, images: dict[str, str]) -> None:
    code = "import shutil; print([name for name in ('cc', 'gcc', 'clang', 'make', 'uv') if shutil.which(name)])"
    assert run("python", "-c", code).stdout == "[]\n"
    for target, image in images.items():
        assert config(image)["Config"]["User"] == "1000:1000", target


def test_its_labels_name_commit_and_lock(checkout: Path, images: dict[str, str]) -> None:
    lock = subprocess.run(["sha256sum", checkout / "requirements" / "pipeline.txt"], capture_output=True, text=True)
    for image in images.values():
        labels = config(image)["Config"]["Labels"]
        assert len(labels["org.opencontainers.image.revision"]) in (0, 40)
        assert labels["lockstep.lock"] == lock.stdout.split()[0]


def test_it_keeps_no_secret_and_no_address(images: dict[str, str]) -> None:
    for image in images.values():
        history = subprocess.run(
            ["docker", "history", "--no-trunc", image], capture_output=True, text=True, check=True
        )
        variables = config(image)["Config"]["Env"]
        assert not [one for one in variables if one.startswith(("PIP_", "UV_", "SSL_", "HTTP"))]
        assert "PIP_INDEX_URL=" not in history.stdout


def test_only_awq_has_llm_compressor_and_versions_are_the_locks(
    run: Run, checkout: Path, images: dict[str, str]
) -> None:
    lines = (checkout / "requirements" / "pipeline.txt").read_text(encoding="utf-8").splitlines()
    locked = {line.partition(";")[0].strip() for line in lines}
    code = (
        "import importlib.metadata as m, json, re\n"
        "name = lambda one: re.sub('[-_.]+', '-', one.metadata['Name']).lower()\n"
        "print(json.dumps({name(one): one.version.partition('+')[0] for one in m.distributions()}))"
    )
    trainer = json.loads(run("python", "-c", code, stage="train").stdout)
    awq = json.loads(run("python", "-c", code, stage="awq").stdout)
    assert "llmcompressor" not in trainer
    assert "llmcompressor" in awq
    assert {"torch", "trl", "compressed-tensors"} <= set(trainer)
    for found in (trainer, awq):
        assert {f"{name}=={version}" for name, version in found.items()} <= locked


def test_trainer_is_at_most_two_and_a_half_gigabytes(images: dict[str, str]) -> None:
    """On a plain base with PyTorch's CPU build; CUDA's libraries need more."""
    if has_gpu():
        pytest.skip("the image holds CUDA's libraries: run `make test ARGS=tests/docker` on a machine without a GPU")
    assert config(images["trainer"])["Size"] < 2.5e9
