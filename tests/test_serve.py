"""`make serve` before anything starts: what it refuses and why, the name it gives, and what it would start."""

import json
import shutil
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT, fail_in, succeed_in
from recorded import Recorded, commit, run

from stages.common import settings
from tools import lineage, serve
from tools.common import artefact
from tools.serving import door, engine, host, keys, page, proof, snapshot
from tools.serving.endpoint import Endpoint

CONFIG = Path("models/awq/config.json")


@pytest.fixture(scope="module")
def passed(repository: Recorded) -> Iterator[str]:
    """A commit of the repository of recorded runs in which every gate passed."""
    folder = repository.folder
    gates = folder / "metrics" / "gates.json"
    verdicts = json.loads(gates.read_text(encoding="utf-8"))
    gates.write_text(json.dumps({name: verdict | {"passed": True} for name, verdict in verdicts.items()}))
    run(folder, "dvc", "commit", "--force", "--quiet", "report")
    shutil.copytree(ROOT / "docker", folder / "docker")
    yield commit(folder, "passed")
    back(folder, repository.other)


@pytest.fixture
def proven(repository: Recorded, passed: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """That repository, brought back afterwards."""
    monkeypatch.chdir(repository.folder)
    yield repository.folder
    back(repository.folder, passed)


def back(folder: Path, to: str) -> None:
    run(folder, "git", "clean", "--quiet", "--force", "-dx", ".serve", ".env")
    run(folder, "git", "checkout", "--quiet", "--force", "-B", "main", to)
    shutil.rmtree(folder / "models")
    shutil.copytree(folder / ".git" / "models", folder / "models")


def write(path: Path, text: str) -> None:
    path.chmod(0o644)
    path.write_text(text, encoding="utf-8")


def test_the_section_has_exactly_the_keys_of_its_class() -> None:
    assert set(settings.read_yaml(ROOT / "params.yaml")["serve"]) == set(engine.ServeParams.model_fields)
    engine.load(ROOT / "params.yaml")


def test_what_the_pipeline_made_is_proven_and_bears_its_hash(proven: Path) -> None:
    model = proof.examine("awq", None)
    assert model.doubts == []
    lock = settings.read_yaml(Path("dvc.lock"))["stages"]["awq"]["outs"]
    (md5,) = [out["md5"] for out in lock if out["path"] == "models/awq"]
    assert model.name == f"lockstep-awq-{md5[:8]}"


@pytest.mark.parametrize("text", ["", "{", "{}\n"])
def test_other_bytes_are_refused_half_written_ones_too(proven: Path, text: str) -> None:
    write(CONFIG, text)
    model = proof.examine("awq", None)
    assert model.doubts[0].startswith("models/awq: not the bytes of dvc.lock, which has md5 ")
    assert model.doubts[0].endswith("`dvc checkout --force models/awq` brings those back")
    message = fail_in(proven, serve.main)
    assert message.startswith("awq is not proven, and is not served:\nmodels/awq: not the bytes of dvc.lock")
    assert message.endswith(f"\nFORCE=1 serves it as {model.name}")
    assert model.name == f"lockstep-awq-{artefact.of_model('awq').md5[:8]}-unproven"


def test_a_model_that_lacks_a_file_is_refused(proven: Path) -> None:
    CONFIG.unlink()
    assert "models/awq: not the bytes of dvc.lock" in fail_in(proven, serve.main)
    shutil.rmtree("models/awq")
    assert fail_in(proven, serve.main) == "models/awq: no such file or folder; run `make repro` first"


def test_a_stale_pipeline_is_refused_with_its_reason(proven: Path) -> None:
    write(Path("stages/awq.py"), "# changed\n")
    params = Path("params.yaml")
    write(params, params.read_text(encoding="utf-8").replace("samples: 16", "samples: 15"))
    (doubt,) = proof.examine("awq", None).doubts
    assert doubt == ("the pipeline is stale: awq (stages/awq.py modified, params awq.samples); run `make repro`")
    assert doubt in fail_in(proven, serve.main)


def test_a_failed_gate_is_refused_by_name(proven: Path) -> None:
    gates = Path("metrics/gates.json")
    verdicts = json.loads(gates.read_text(encoding="utf-8"))
    verdicts["awq_size_ratio"]["passed"] = False
    write(gates, json.dumps(verdicts))
    run(proven, "dvc", "commit", "--force", "--quiet", "report")
    assert proof.examine("merged", None).doubts == ["gates failed: awq_size_ratio; `make gate` says more"]
    commit(proven, "failed")
    assert proof.examine("merged", "HEAD").doubts == [
        "gates failed: awq_size_ratio; `git show HEAD:metrics/gates.json` says more"
    ]
    assert proof.examine("merged", "HEAD^").doubts == []


def test_without_a_run_it_says_what_to_do(proven: Path) -> None:
    Path("dvc.lock").unlink()
    assert fail_in(proven, serve.main) == "dvc.lock: no models/awq in it; run `make repro` first"


def test_a_revision_is_served_from_the_cache_and_the_workspace_stays(
    proven: Path, repository: Recorded, tmp_path: Path
) -> None:
    before = artefact.of_model("awq").md5
    old = proof.examine("awq", repository.first)
    assert old.md5 != before
    folder = snapshot.take(old)
    assert artefact.of_model(str(folder)).md5 == old.md5
    assert (folder / "config.json").stat().st_ino != CONFIG.stat().st_ino
    assert artefact.of_model("awq").md5 == before
    assert run(proven, "git", "status", "--porcelain", "--untracked-files=no") == ""


def test_what_the_cache_lacks_of_a_revision_is_said_with_what_brings_it(proven: Path, repository: Recorded) -> None:
    old = proof.examine("awq", repository.first)
    listing = Path(".dvc/cache/files/md5", old.md5[:2], old.md5[2:])
    kept = listing.rename(listing.with_suffix(".kept"))
    try:
        with pytest.raises(
            Exception, match=f"not in the DVC cache; run `git checkout {repository.first} && dvc fetch"
        ):
            snapshot.take(old)
    finally:
        kept.rename(listing)


def test_a_snapshot_outlives_the_workspace_and_no_stage_changes_it(proven: Path) -> None:
    model = proof.examine("awq", None)
    folder = snapshot.take(model)
    shutil.rmtree("models/awq")
    assert artefact.of_model(str(folder)).md5 == model.md5


def test_bytes_that_change_while_they_are_taken_are_noticed(proven: Path) -> None:
    write(CONFIG, "{}")
    model = proof.examine("awq", None)
    write(CONFIG, "{ }")
    with pytest.raises(Exception, match="it changes; wait for what runs"):
        snapshot.take(model)
    assert not list(snapshot.FOLDER.glob("*"))


def test_lineage_leads_from_the_name_to_the_commit_and_the_data(proven: Path, repository: Recorded) -> None:
    for rev in (repository.first, repository.other):
        name = proof.examine("awq", rev).name.removesuffix("-unproven")
        text = succeed_in(proven, lineage.main, "--name", name)
        assert f"\nfirst commit {rev}\n" in text or f"\ncommit       {rev} " in text
        assert "data/raw/rows.jsonl" in text
    write(CONFIG, "{}")
    message = fail_in(proven, lineage.main, "--name", proof.examine("awq", None).name)
    assert message.endswith("no model of any commit here has such a hash; it was served with FORCE=1")
    assert fail_in(proven, lineage.main, "--name", "gpt").startswith("gpt: no name of a served model")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model", "awk"], "awk: no model; it is one of base, merged, awq"),
        (["--models", "awq,awq"], "awq,awq: one of them stands there twice"),
        (["--models", "awq,"], "awq,: no model; it is one of base, merged, awq"),
        (["--rev", "no-such"], "git log: fatal: bad revision 'no-such'"),
        (["--models", "awq,merged", "--runtime", "docker"], "RUNTIME=docker serves one model, once"),
    ],
)
def test_a_wrong_wish_is_one_line(proven: Path, options: list[str], message: str) -> None:
    assert fail_in(proven, serve.main, *options).startswith(message)


def test_models_side_by_side_may_be_of_two_revisions() -> None:
    assert serve.wishes("awq,merged@v1, awq@v1", None) == [("awq", None), ("merged", "v1"), ("awq", "v1")]
    assert serve.wishes("awq,awq@v1", "v2") == [("awq", "v2"), ("awq", "v1")]


@pytest.mark.parametrize(
    ("key", "value"),
    [("trust_remote_code", "true"), ("tool-parser-plugin", "x.py"), ("load_format", "pt"), ("host", "all")],
)
def test_what_would_serve_other_bytes_or_run_code_is_refused(tmp_path: Path, key: str, value: str) -> None:
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    (tmp_path / "params.yaml").write_text(f"{text}    {key}: {value}\n", encoding="utf-8")
    wanted = f"serve.vllm.{key.replace('-', '_')}: `make serve` sets it, or it is unsafe; delete the line"
    with pytest.raises(Exception, match=wanted):
        engine.load(tmp_path / "params.yaml")


def test_settings_go_to_vllm_unchanged() -> None:
    params = engine.load(ROOT / "params.yaml").model_copy(
        update={
            "vllm": {
                "max_model_len": 64,
                "enforce_eager": False,
                "seed": None,
                "override_generation_config": {"a": 1},
            }
        }
    )
    given = engine.arguments(params, "name", {})
    assert given[:4] == ["--served-model-name", "name", "--load-format", "safetensors"]
    assert given[5:] == ["--max-model-len", "64", "--no-enforce-eager", "--override-generation-config", '{"a": 1}']


def test_vllm_gets_its_traps_closed_and_nothing_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_SERVER_DEV_MODE", "1")
    monkeypatch.setenv("VLLM_CPU_INT4_W4A8", "1")
    monkeypatch.setenv("PYTHONPATH", "here")
    found = engine.variables(engine.load(ROOT / "params.yaml"), "key")
    assert found["VLLM_CPU_INT4_W4A8"] == "0"
    assert (found["VLLM_API_KEY"], found["HF_HUB_OFFLINE"]) == ("key", "1")
    assert not {"VLLM_SERVER_DEV_MODE", "PYTHONPATH"} & found.keys()


@pytest.mark.parametrize(("cores", "threads"), [(1, "1"), (2, "1"), (3, None), (64, None)])
def test_a_machine_of_few_cores_keeps_one_for_the_api(cores: int, threads: str | None) -> None:
    params = engine.load(ROOT / "params.yaml")
    found = engine.spared(params, cores)
    assert found == ({"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "OMP_NUM_THREADS": threads} if threads else {})
    assert not engine.spared(params.model_copy(update={"vllm": {"tensor_parallel_size": 2}}), cores)


@pytest.mark.parametrize("tools", [False, True])
def test_the_page_calls_tools_only_where_vllm_knows_how(tools: bool) -> None:
    known = {"API_KEY": "k", "ADMIN_EMAIL": "e", "ADMIN_PASSWORD": "p", "WEBUI_SECRET_KEY": "s", "WEBUI_PORT": "3000"}
    found = page.variables(known, ["a", "b"], ["http://x/v1", "http://y/v1"], tools)
    assert json.loads(found["DEFAULT_MODEL_METADATA"]) == {"capabilities": {"builtin_tools": tools}}
    assert (found["DEFAULT_MODELS"], found["OPENAI_API_KEYS"]) == ("a", "k;k")
    assert found["ENABLE_SIGNUP"] == "false"


def test_secrets_are_made_once_and_for_the_owner_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "docker", "docker")
    first = keys.load()
    assert stat.S_IMODE(keys.PATH.stat().st_mode) == 0o600
    assert all(len(first[name]) >= 32 for name in keys.SECRETS if name != "ADMIN_EMAIL")
    assert len({first[name] for name in keys.SECRETS}) == len(keys.SECRETS)
    keys.PATH.chmod(0o644)
    monkeypatch.setenv("API_KEY", "another program's")
    monkeypatch.setenv("API_PORT", "8123")
    assert keys.load() == first | {"API_PORT": "8123"}
    assert stat.S_IMODE(keys.PATH.stat().st_mode) == 0o600


def test_a_port_that_is_no_number_is_refused(proven: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEBUI_PORT", "http")
    assert fail_in(proven, serve.main) == ".env: WEBUI_PORT: must be a number (got 'http')"


def test_the_same_bytes_are_served_once(proven: Path) -> None:
    name = proof.examine("awq", None).name
    assert fail_in(proven, serve.main, "--models", "awq,awq@HEAD") == f"{name}: the same bytes twice; name it once"


def test_a_taken_port_is_refused_with_its_key(proven: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setenv("API_PORT", str(port))
        message = fail_in(proven, serve.main)
    assert message == (
        f"127.0.0.1:{port}: cannot be listened on (Address already in use); "
        f"`ss -ltnp sport = :{port}` shows by what; or set API_PORT in .env"
    )


def test_without_nginx_nothing_is_published(proven: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "nginx", lambda: None)
    one = Endpoint("lockstep-awq-1a2b3c4d", "http://127.0.0.1:8000/v1", "models/awq", "awq", None, {})
    config = engine.load(ROOT / "params.yaml")
    with pytest.raises(Exception, match=r"^BIND in [.]env: needs nginx"):
        host.parts(config, {"BIND": "0.0.0.0"}, [one])
    with pytest.raises(Exception, match=r"^serve[.]replicas: needs nginx"):
        host.parts(config.model_copy(update={"replicas": 2}), {"BIND": "127.0.0.1"}, [one])


def test_the_door_is_filled_in_as_the_nginx_image_does_it() -> None:
    text = door.filled(door.Way("awq", "127.0.0.1:8000", ["unix:/a", "unix:/b"]))
    assert "${" not in text
    assert "upstream awq {" in text
    assert "server unix:/a; server unix:/b;" in text
    assert "listen 127.0.0.1:8000;" in text
