"""What `make serve` takes for proven, what it refuses and why, and the name by which lineage finds the commit."""

import json
import shutil
from pathlib import Path

import pytest
from conftest import fail_in, succeed_in
from proving import write
from recorded import Recorded, commit, run

from stages.common import settings
from tools import lineage, serve
from tools.common import artefact
from tools.serving import proof, snapshot

CONFIG = Path("models/awq/config.json")


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


def test_bytes_that_the_cache_lacks_too_come_back_by_a_run(proven: Path) -> None:
    """As after a change through a hard link, which DVC throws out of its cache."""
    place = artefact.cached(artefact.of_model("awq").md5)[CONFIG.name]
    write(CONFIG, "{}")
    kept = place.rename(place.with_suffix(".kept"))
    try:
        assert proof.examine("awq", None).doubts[0].endswith("; `make repro` brings those back")
    finally:
        kept.rename(place)


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
