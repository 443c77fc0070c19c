"""`make lineage FORMAT=cyclonedx`: a valid and complete bill of materials, the same text every time."""

import json
from typing import Any

import pytest
from recorded import Recorded
from stage_runs import succeed_in

from stages.common import files
from tools.lineage import __main__ as lineage

pytestmark = pytest.mark.slow  # DVC records the runs


def render(repository: Recorded, *arguments: str) -> str:
    return succeed_in(repository.folder, lineage.main, "--format", "cyclonedx", *arguments)


def error(text: str) -> Any:
    """Return what is wrong with a bill of materials; None for nothing."""
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator  # takes seconds to import

    return JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)


@pytest.fixture(scope="module")
def bill(repository: Recorded) -> dict[str, Any]:
    return json.loads(render(repository, "--rev", repository.first))


@pytest.mark.parametrize("model", ["adapter", "awq"])
def test_it_is_valid_and_about_the_model(repository: Recorded, model: str) -> None:
    text = render(repository, "--model", model, "--rev", "HEAD")
    assert error(text) is None
    assert json.loads(text)["metadata"]["component"]["name"] == f"models/{model}"


def test_the_validator_finds_what_the_schema_does_not_allow(bill: dict[str, Any]) -> None:
    broken = json.loads(json.dumps(bill))
    broken["metadata"]["component"]["modelCard"]["modelParameters"]["approach"]["type"] = "by heart"
    assert error(json.dumps(broken)) is not None


def test_one_commit_gives_one_text_and_another_another(repository: Recorded) -> None:
    texts = [render(repository, "--rev", rev) for rev in (repository.first, repository.words, repository.other)]
    assert texts[0] == texts[1]
    numbers = [json.loads(text)["serialNumber"] for text in texts]
    assert numbers[1] != numbers[2]


def test_every_file_is_in_it_with_its_hashes(repository: Recorded, bill: dict[str, Any]) -> None:
    components = [bill["metadata"]["component"], *bill["components"]]
    inner = [one for component in components for one in component.get("components", []) if one["type"] == "file"]
    listed = [one for one in [*components, *inner] if "hashes" in one]
    hashes = {one["name"]: {each["alg"]: each["content"] for each in one["hashes"]} for one in listed}
    assert set(hashes) == {
        *("data/raw/rows.jsonl", "requirements/pipeline.txt"),
        *(
            f"models/{name}/{file}"
            for name in models(bill)
            for file in files.hashes(repository.folder / "models" / name)
        ),
    }
    weights = "models/merged/model.safetensors"
    assert hashes[weights]["SHA-256"] == files.sha256(repository.folder / weights)


def models(bill: dict[str, Any]) -> dict[str, dict[str, Any]]:
    components = [bill["metadata"]["component"], *bill["components"]]
    kind = "machine-learning-model"
    return {one["name"].removeprefix("models/"): one for one in components if one["type"] == kind}


def test_models_have_cards_data_their_licence_and_the_lock_its_libraries(
    repository: Recorded, bill: dict[str, Any]
) -> None:
    found = models(bill)
    assert set(found) == {"base", "adapter", "merged", "awq"}
    for name, model in found.items():
        parameters = model["modelCard"]["modelParameters"]
        assert (parameters["task"], parameters["modelArchitecture"]) == ("text-generation", "Qwen2ForCausalLM")
        assert parameters.get("datasets") == (None if name == "base" else [{"ref": "data/raw/rows.jsonl"}])
    measured = {
        one["type"]: one["value"] for one in found["awq"]["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    }
    scores = json.loads((repository.folder / "metrics" / "eval" / "awq.json").read_text(encoding="utf-8"))
    assert measured["perplexity"] == str(scores["perplexity"])
    properties = {one["name"]: one["value"] for one in found["awq"]["properties"]}
    assert properties["lockstep:awq.group_size"] == "32"
    (verdict,) = [value for name, value in properties.items() if name == "lockstep:gate.awq_exact_match_gain"]
    assert verdict.startswith("cannot be judged: 0.0, min 0.45")
    (data,) = [one for one in bill["components"] if one["type"] == "data"]
    assert data["licenses"] == [{"license": {"id": "MIT"}}]
    assert data["data"] == [{"type": "dataset", "name": "data/raw/rows.jsonl"}]
    (lock,) = [one for one in bill["components"] if one["name"] == "requirements/pipeline.txt"]
    assert [one["purl"] for one in lock["components"]] == ["pkg:pypi/torch@2.13.0"]


def test_it_has_what_each_model_is_made_from(bill: dict[str, Any]) -> None:
    depends = {one["ref"]: set(one.get("dependsOn", [])) for one in bill["dependencies"]}
    given = {"data/raw/rows.jsonl", "requirements/pipeline.txt"}
    assert depends["models/base"] == {"requirements/pipeline.txt"}
    assert depends["models/adapter"] == given | {"models/base"}
    assert depends["models/merged"] == given | {"models/adapter", "models/base"}
    assert depends["models/awq"] == given | {"models/adapter", "models/base"}
