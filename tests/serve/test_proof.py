"""Which models are proven, what is refused and why, and the name by which `make lineage` finds the commit."""

import json
import shutil
from pathlib import Path

import click
import pytest
from proving import write
from recorded import Recorded, commit, run
from stage_runs import fail_in, succeed_in

from stages.common.params import read_yaml
from tools.common.dvc_cache import cached_folder, folder_md5
from tools.lineage import __main__ as lineage
from tools.serve import __main__ as serve
from tools.serve import snapshot
from tools.serve.proof import examine, examine_folder

pytestmark = pytest.mark.slow
AWQ = Path("models/awq")
CONFIG = AWQ / "config.json"


def test_a_model_of_the_pipeline_is_proven_and_has_its_hash_in_its_name(proven: Path) -> None:
    model = examine("awq", None)
    assert model.problems == []
    lock = read_yaml(Path("dvc.lock"))["stages"]["awq"]["outs"]
    (md5,) = [out["md5"] for out in lock if out["path"] == "models/awq"]
    assert model.name == f"lockstep-awq-{md5[:8]}"


@pytest.mark.parametrize("text", ["", "{"])
def test_a_configuration_that_is_not_json_is_refused(proven: Path, text: str) -> None:
    write(CONFIG, text)
    message = fail_in(proven, serve.main)
    assert message.startswith(f"models/awq/config.json:1:{len(text) + 1}: not JSON (")
    assert message.endswith("; get the model again with `make repro`")


def test_other_bytes_are_refused(proven: Path) -> None:
    recorded = examine("awq", None).md5
    write(CONFIG, "{}\n")
    model = examine("awq", None)
    command = "dvc checkout --force models/awq"
    problem = f"models/awq: its md5 is {model.md5}, in dvc.lock {recorded}; run `{command}` to restore it"
    assert model.problems[0] == problem
    assert model.name == f"lockstep-awq-{folder_md5(AWQ)[:8]}-unproven"
    message = fail_in(proven, serve.main)
    assert problem in message
    assert model.name in message


def test_bytes_that_are_not_in_the_cache_come_back_by_a_run(proven: Path) -> None:
    """As after a change through a hard link: DVC then removes the file from its cache."""
    path = cached_folder(folder_md5(AWQ))[CONFIG.name]
    write(CONFIG, "{}")
    kept = path.rename(path.with_suffix(".kept"))
    try:
        assert "run `make repro` to restore it" in examine("awq", None).problems[0]
    finally:
        kept.rename(path)


def test_a_model_that_lacks_a_file_is_refused(proven: Path) -> None:
    CONFIG.unlink()
    assert "models/awq: its md5 is" in fail_in(proven, serve.main)
    shutil.rmtree("models/awq")
    assert "run `make repro` first" in fail_in(proven, serve.main)


def test_a_stale_pipeline_is_refused_with_its_causes(proven: Path) -> None:
    write(Path("stages/awq/__main__.py"), "# changed\n")
    params = Path("params.yaml")
    write(params, params.read_text(encoding="utf-8").replace("samples: 16", "samples: 15"))
    (problem,) = examine("awq", None).problems
    assert problem == "the pipeline is stale: awq (stages/awq modified, params awq.samples); run `make repro`"
    assert problem in fail_in(proven, serve.main)


def test_while_dvc_works_the_committed_model_is_offered(proven: Path) -> None:
    """DVC's own lock is held here as `dvc repro` holds it."""
    from dvc.repo import Repo  # type: ignore[import-untyped]

    with Repo(str(proven)).lock, pytest.raises(click.ClickException, match="DVC is at work") as raised:
        examine("awq", None)
    assert raised.value.message.endswith("wait until it ends, or serve what is committed: `make serve REV=HEAD`")
    with Repo(str(proven)).lock:
        assert examine("awq", "HEAD").problems == []


def test_a_failed_gate_is_refused_by_name(proven: Path) -> None:
    gates = Path("metrics/gates.json")
    verdicts = json.loads(gates.read_text(encoding="utf-8"))
    verdicts["merge_kept"]["passed"] = verdicts["awq_size_ratio"]["passed"] = False
    write(gates, json.dumps(verdicts))
    run(proven, "dvc", "commit", "--force", "--quiet", "report")
    failed = ["gates failed: merge_kept, awq_size_ratio; `make gate` shows the values"]
    assert examine("awq", None).problems == failed
    commit(proven, "failed")
    failed = ["gates failed: merge_kept, awq_size_ratio; `git show HEAD:./metrics/gates.json` shows the values"]
    assert examine("awq", "HEAD").problems == failed
    assert examine("awq", "HEAD^").problems == []


@pytest.mark.parametrize("kind", ["base", "adapter", "merged"])
def test_a_failed_gate_of_awq_concerns_awq_alone(proven: Path, kind: str) -> None:
    """Where quantisation costs too much, the model before it can still be served."""
    gates = Path("metrics/gates.json")
    verdicts = json.loads(gates.read_text(encoding="utf-8"))
    verdicts["awq_kept"]["passed"] = False
    write(gates, json.dumps(verdicts))
    run(proven, "dvc", "commit", "--force", "--quiet", "report")
    assert examine(kind, None).problems == []
    verdicts["merge_kept"]["passed"] = False
    write(gates, json.dumps(verdicts))
    run(proven, "dvc", "commit", "--force", "--quiet", "report")
    assert examine(kind, None).problems == ["gates failed: merge_kept; `make gate` shows the values"]


def test_an_adapter_on_another_base_is_refused(proven: Path) -> None:
    config = Path("models/base/config.json")
    write(config, config.read_text(encoding="utf-8") + " ")
    message = fail_in(proven, serve.main, "--model", "adapter")
    assert message.startswith("adapter is not proven, and is not served:\n")
    assert "models/base: its md5 is" in message


def test_without_a_run_the_next_command_is_named(proven: Path) -> None:
    Path("dvc.lock").unlink()
    assert "run `make repro` first" in fail_in(proven, serve.main)


def test_a_folder_outside_the_pipeline_is_not_proven(proven: Path, tmp_path: Path) -> None:
    folder = shutil.copytree("models/adapter", tmp_path / "mine")
    (problem,) = examine_folder(folder).problems
    assert problem == f"{folder}: not a model of this pipeline; dvc.lock has no hash of it"
    assert examine_folder(Path("models/adapter")).problems == []


def test_a_revision_is_served_from_the_cache_and_the_workspace_stays(
    proven: Path, repository: Recorded, tmp_path: Path
) -> None:
    before = folder_md5(AWQ)
    old = examine("awq", repository.first)
    assert old.md5 != before
    folder = snapshot.take(old)
    assert folder_md5(folder) == old.md5
    assert (folder / "config.json").stat().st_ino != CONFIG.stat().st_ino
    assert folder_md5(AWQ) == before
    assert run(proven, "git", "status", "--porcelain", "--untracked-files=no") == ""


def test_a_revision_that_the_cache_lacks_is_refused_with_the_command_that_fetches_it(
    proven: Path, repository: Recorded
) -> None:
    old = examine("awq", repository.first)
    listing = Path(".dvc/cache/files/md5", old.md5[:2], old.md5[2:])
    kept = listing.rename(listing.with_suffix(".kept"))
    try:
        with pytest.raises(click.ClickException, match=f"run `git checkout {repository.first} && dvc fetch"):
            snapshot.take(old)
    finally:
        kept.rename(listing)


def test_a_snapshot_outlives_the_workspace_and_no_stage_changes_it(proven: Path) -> None:
    model = examine("awq", None)
    folder = snapshot.take(model)
    shutil.rmtree("models/awq")
    assert folder_md5(folder) == model.md5


def test_bytes_that_change_during_a_snapshot_are_refused(proven: Path) -> None:
    write(CONFIG, "{}")
    model = examine("awq", None)
    write(CONFIG, "{ }")
    message = f"models/awq: its md5 changed from {model.md5} to .*; wait until no stage runs, and try again"
    with pytest.raises(click.ClickException, match=message):
        snapshot.take(model)
    assert not list(snapshot.FOLDER.glob("*"))


def test_lineage_leads_from_the_name_to_the_commit_and_the_data(proven: Path, repository: Recorded) -> None:
    for rev in (repository.first, repository.other):
        name = examine("awq", rev).name.removesuffix("-unproven")
        text = succeed_in(proven, lineage.main, "--name", name)
        assert f"\nfirst commit {rev}\n" in text or f"\ncommit       {rev} " in text
        assert "data/raw/rows.jsonl" in text
    write(CONFIG, "{}")
    assert "FORCE=1" in fail_in(proven, lineage.main, "--name", examine("awq", None).name)
    assert fail_in(proven, lineage.main, "--name", "gpt").startswith("gpt: ")
