"""Doctor: each fault is found, is named, and has a command; a sound checkout has none."""

import fcntl
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from stage_runs import ROOT

from tools.doctor import plain
from tools.doctor.finding import FIX, OK, WARN

pytestmark = pytest.mark.slow  # most start a process


def look(name: str) -> tuple[str, str]:
    """What a check finds: its status, and its text with the command."""
    finding = plain.isolated(plain.CHECKS[name])
    return finding.status, f"{finding.text} -> {finding.command}"


def append(path: Path, text: str) -> None:
    path.write_text(path.read_text(encoding="utf-8") + text, encoding="utf-8")


def test_a_sound_checkout_needs_nothing(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert plain.run(as_json=True) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found) == list(plain.CHECKS)
    depends_on_the_machine = {"memory", "disk", "processor", "allocator", "ports"}
    wrong = {name: one for name, one in found.items() if one["status"] != OK and name not in depends_on_the_machine}
    assert not wrong


def no_environment(folder: Path) -> None:
    (folder / ".venv").unlink()


def dead_interpreter(folder: Path) -> None:
    (folder / ".venv").unlink()
    (folder / ".venv" / "bin").mkdir(parents=True)
    (folder / ".venv" / "bin" / "python").symlink_to("/usr/bin/python3.0")


def old_python(folder: Path) -> None:
    (folder / ".venv").unlink()
    (folder / ".venv" / "bin").mkdir(parents=True)
    python = folder / ".venv" / "bin" / "python"
    python.write_text("#!/bin/sh\necho Python 3.9.2\n", encoding="utf-8")
    python.chmod(0o755)


def other_lock(folder: Path) -> None:
    lock = folder / "requirements" / "pipeline.txt"
    text = lock.read_text(encoding="utf-8")
    assert "click==" in text
    lock.write_text(text.replace("click==", "click==0."), encoding="utf-8")


def empty_environment(folder: Path) -> None:
    (folder / ".venv").unlink()
    (folder / ".venv" / "lib" / "python3.11" / "site-packages").mkdir(parents=True)


def serving_of_another_lock(folder: Path) -> None:
    make_serving(folder)
    package = folder / ".serve" / "vllm" / "lib" / "python3.11" / "site-packages" / "fastapi-0.1.dist-info"
    package.mkdir(parents=True)
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: fastapi\nVersion: 0.1\n", encoding="utf-8")


def make_serving(folder: Path) -> None:
    (folder / ".serve" / "vllm" / "bin").mkdir(parents=True)
    (folder / ".serve" / "vllm" / "bin" / "python").touch()
    (folder / ".serve" / "vllm" / ".made").touch()


def half_made_serving(folder: Path) -> None:
    make_serving(folder)
    (folder / ".serve" / "vllm" / ".made").unlink()


def conflict_in_lock(folder: Path) -> None:
    append(folder / "dvc.lock", "<<<<<<< HEAD\n=======\n>>>>>>> other\n")


def conflict_in_params(folder: Path) -> None:
    append(folder / "params.yaml", "<<<<<<< HEAD\n")


def dead_lock(folder: Path) -> None:
    with subprocess.Popen(["true"]) as process:
        process.wait()
    held = {"models/base": {"write": {"pid": process.pid, "cmd": "dvc repro"}}}
    (folder / ".dvc" / "tmp" / "rwlock").write_text(json.dumps(held), encoding="utf-8")


def damaged_lock(folder: Path) -> None:
    (folder / ".dvc" / "tmp" / "rwlock").write_text('{"models/ba', encoding="utf-8")


def no_remote(folder: Path) -> None:
    (folder / ".dvc" / "config").write_text("[core]\n", encoding="utf-8")


def remote_without_a_url(folder: Path) -> None:
    (folder / ".dvc" / "config").write_text("[core]\n    remote = there\n", encoding="utf-8")


def remote_on_a_disk_that_is_gone(folder: Path) -> None:
    text = "[core]\n    remote = there\n['remote \"there\"']\n    url = ../../gone\n"
    (folder / ".dvc" / "config").write_text(text, encoding="utf-8")


def symlinks(folder: Path) -> None:
    append(folder / ".dvc" / "config", "[cache]\n")
    text = (folder / ".dvc" / "config").read_text(encoding="utf-8").replace("hardlink,copy", "symlink,copy")
    (folder / ".dvc" / "config").write_text(text.removesuffix("[cache]\n"), encoding="utf-8")


def copies(folder: Path) -> None:
    text = (folder / ".dvc" / "config").read_text(encoding="utf-8").replace("hardlink,copy", "copy")
    (folder / ".dvc" / "config").write_text(text, encoding="utf-8")


def cache_is_gone(folder: Path) -> None:
    append(folder / ".dvc" / "config", "")
    text = (folder / ".dvc" / "config").read_text(encoding="utf-8")
    text = text.replace("[cache]", "[cache]\n    dir = /nowhere/at/all")
    (folder / ".dvc" / "config").write_text(text, encoding="utf-8")


def closed_model(folder: Path) -> None:
    (folder / "models" / "base").mkdir(parents=True)
    weights = folder / "models" / "base" / "model.safetensors"
    weights.touch()
    weights.chmod(0o200)


def closed_folder(folder: Path) -> None:
    (folder / "models").mkdir()
    (folder / "models").chmod(0o500)


def open_secrets(folder: Path) -> None:
    (folder / ".env").write_text("API_KEY=never-shown\n", encoding="utf-8")
    (folder / ".env").chmod(0o644)


def port_of_letters(folder: Path) -> None:
    (folder / ".env").write_text("API_PORT=http\n", encoding="utf-8")
    (folder / ".env").chmod(0o600)


def from_the_hub(folder: Path) -> None:
    text = (folder / "params.yaml").read_text(encoding="utf-8").replace("source: tiny", "source: hub", 1)
    (folder / "params.yaml").write_text(text, encoding="utf-8")


def open_token(folder: Path) -> None:
    from_the_hub(folder)
    token = folder.parent / ".cache" / "huggingface" / "token"
    token.parent.mkdir(parents=True)
    token.write_text("hf_never_shown", encoding="utf-8")
    token.chmod(0o644)


def huge_model(folder: Path) -> None:
    (folder / "models" / "base").mkdir(parents=True)
    with (folder / "models" / "base" / "model.safetensors").open("wb") as file:
        file.truncate(2**43)  # a hole: it takes no disk


@pytest.mark.parametrize(
    ("name", "broken", "status", "words"),
    [
        ("python", no_environment, FIX, ["no environment in .venv", "make install"]),
        ("python", dead_interpreter, FIX, ["its interpreter is gone", "rm -rf .venv && make install"]),
        ("python", old_python, FIX, ["Python 3.9.2", "3.11 to 3.13"]),
        ("libraries", other_lock, FIX, ["click ", "requirements/pipeline.txt", "make install"]),
        ("libraries", empty_environment, FIX, ["not installed in .venv: click", "make install"]),
        ("vllm", serving_of_another_lock, WARN, ["fastapi 0.1", "requirements/serve.txt", "make serve"]),
        ("vllm", half_made_serving, WARN, ["not complete", "rm -rf .serve/vllm"]),
        ("disk", huge_model, FIX, ["are free; a run writes", "dvc gc --workspace"]),
        ("conflicts", conflict_in_lock, FIX, ["dvc.lock has conflict marks", "git checkout --ours -- dvc.lock"]),
        ("conflicts", conflict_in_params, FIX, ["params.yaml: conflict marks"]),
        ("locks", dead_lock, FIX, ["which is gone", "rm .dvc/tmp/rwlock"]),
        ("locks", damaged_lock, FIX, ["damaged", "rm .dvc/tmp/rwlock"]),
        ("remote", no_remote, WARN, ["no default remote", "dvc remote add"]),
        ("remote", remote_without_a_url, FIX, ["there has no url"]),
        ("remote", remote_on_a_disk_that_is_gone, WARN, ["gone is not there", "mkdir -p"]),
        ("cache", symlinks, FIX, ["symlink", "dvc config cache.type hardlink,copy"]),
        ("cache", copies, WARN, ["its bytes twice", "dvc checkout --relink"]),
        ("cache", cache_is_gone, WARN, ["/nowhere/at is not there", "dvc cache dir"]),
        ("models", closed_model, FIX, ["models/base/model.safetensors", "chown -R"]),
        ("models", closed_folder, FIX, ["models", "chmod -R u+rwX models"]),
        ("secrets", open_secrets, FIX, ["0644", "chmod 600 .env"]),
        ("ports", port_of_letters, FIX, ["API_PORT: not a port ('http')"]),
        ("hub", from_the_hub, WARN, ["no token of the hub", "export HF_TOKEN"]),
        ("hub", open_token, FIX, ["others can read the token", "chmod 600"]),
    ],
)
def test_what_is_broken_is_named_with_a_command(
    checkout: Path, name: str, broken: Callable[[Path], None], status: str, words: list[str]
) -> None:
    assert look(name)[0] != FIX  # the check is about what is broken now
    broken(checkout)
    found, text = look(name)
    assert found == status, text
    assert not [word for word in words if word not in text], text
    assert "never" not in text  # a secret


def test_a_remote_elsewhere_is_asked_and_should_verify(checkout: Path, tmp_path: Path) -> None:
    (checkout / ".git").mkdir()  # DVC looks for a repository
    (tmp_path / "remote").mkdir()
    text = f"[core]\n    remote = there\n    no_scm = true\n['remote \"there\"']\n    url = {tmp_path}/remote\n"
    (checkout / ".dvc" / "config").write_text(text, encoding="utf-8")
    status, found = look("remote")
    assert status == WARN
    assert "dvc remote modify there verify true" in found
    append(checkout / ".dvc" / "config", "    verify = true\n")
    assert look("remote")[0] == OK


def test_a_port_in_use_is_found(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        monkeypatch.setenv("API_PORT", port)
        status, text = look("ports")
        assert status == WARN
        assert f"API_PORT {port}" in text
        running = checkout / ".scratch" / "running"
        running.mkdir(parents=True)
        with (running / "1").open("w", encoding="utf-8") as file:  # as docker/log_folder.py leaves it
            file.write("serve\n")
            file.flush()
            fcntl.flock(file, fcntl.LOCK_EX)
            status, text = look("ports")
    assert status == OK
    assert "make status" in text


def test_a_lock_that_is_held_is_no_fault(checkout: Path) -> None:
    held = {"models/base": {"read": [{"pid": os.getpid(), "cmd": "dvc repro"}]}}
    (checkout / ".dvc" / "tmp" / "rwlock").write_text(json.dumps(held), encoding="utf-8")
    status, text = look("locks")
    assert status == OK
    assert str(os.getpid()) in text


def test_the_engine_matters_where_containers_are_used(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNTIME", "docker")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert look("containers")[0] == FIX
    engine = tmp_path / "docker"
    engine.write_text('#!/bin/sh\n[ "$1" = version ] && echo 29.0 && exit 0\nexit 1\n', encoding="utf-8")
    engine.chmod(0o755)
    status, text = look("containers")
    assert status == WARN
    assert "docker compose" in text
    monkeypatch.setenv("RUNTIME", "podman")
    status, text = look("containers")
    assert status == FIX
    assert "must be local or docker" in text


def test_the_driver_must_fit_torch(checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = checkout / "docker" / "runtime.py"
    driver, smi = tmp_path / "nvidiactl", tmp_path / "nvidia-smi"
    runtime.write_text(runtime.read_text(encoding="utf-8").replace("/dev/nvidiactl", str(driver)), encoding="utf-8")
    assert "no NVIDIA GPU" in look("gpu")[1]
    driver.touch()
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert "nvidia-smi gives no answer" in look("gpu")[1]
    answer = '#!/bin/sh\n[ "$1" ] && echo "NVIDIA L4, 550.54, 23034 MiB" || echo "| CUDA Version: 12.4 |"\n'
    smi.write_text(answer, encoding="utf-8")
    smi.chmod(0o755)
    torch = tmp_path / "venv" / "lib" / "python3.11" / "site-packages" / "torch" / "version.py"
    torch.parent.mkdir(parents=True)
    monkeypatch.setenv("VENV", str(tmp_path / "venv"))
    for built, status, words in (
        ("None", FIX, "built for the CPU alone"),
        ("'13.0'", FIX, "supports CUDA 12.4, and torch is built for 13.0"),
        ("'12.8'", OK, "torch for CUDA 12.8"),
    ):
        torch.write_text(f"cuda: Optional[str] = {built}\n", encoding="utf-8")
        found, text = look("gpu")
        assert (found, words in text) == (status, True), text


def test_a_check_that_fails_is_a_finding_and_the_others_go_on(
    checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (checkout / "docker" / "stage_variables.py").write_text("DETERMINISM = 1 / 0\n", encoding="utf-8")
    (checkout / "requirements" / "pipeline.txt").unlink()
    assert plain.run(as_json=False) == 1
    lines = capsys.readouterr().out.splitlines()
    assert any("processor" in line and "ZeroDivisionError" in line for line in lines)
    assert any("libraries" in line and "FileNotFoundError" in line for line in lines)
    assert any(line.startswith("ok") and "hub" in line for line in lines)


def test_it_runs_with_python_alone(checkout: Path) -> None:
    (checkout / ".venv").unlink()
    blocked = "import sys; sys.path = [p for p in sys.path if 'site-packages' not in p]; "
    code = f"{blocked}from tools.doctor import plain; sys.exit(plain.run(True))"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=checkout, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done.stderr
    assert "make install" in json.loads(done.stdout)["python"]["command"]


def test_the_command_exits_by_what_it_finds(checkout: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tools.doctor", "--json"]
    done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    dead_lock(checkout)
    done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert json.loads(done.stdout)["locks"]["status"] == FIX
