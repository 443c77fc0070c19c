"""BOM: a run as a CycloneDX ML-BOM, a bill of materials that other tools read. A commit always gives the same text.

The name of a component is its path. The library (11.12) has classes for components, hashes, licences and
dependencies, and none for model cards and data sets: these are added to its JSON as the schema asks for them.
"""

import json
import uuid
from datetime import datetime
from typing import Any

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL
from packaging.requirements import Requirement

from stages.common import files
from stages.report.fingerprints import FOLDERS
from tools.common.model_facts import cell, flat, limits_of_use
from tools.common.recorded_run import Run


def render_bom(run: Run, name: str) -> str:
    """Write the bill of materials of one model and of what it was made from.

    Args:
        run: a run whose files are those of its dvc.lock (`recorded_run.require_one_run`).
        name: base, adapter, merged or awq.

    Returns:
        JSON, CycloneDX 1.6.
    """
    commit = run["commit"]
    models = {one: _model(run, one) for one in FOLDERS[: FOLDERS.index(name) + 1]}
    data = [_data(entry) for entry in run["data"]]
    environment = [_environment(entry) for entry in run["environment"]]
    bom = Bom(
        serial_number=uuid.uuid5(uuid.NAMESPACE_OID, f"{commit['hash']} {run['models'][name]['md5']}"),
        metadata=BomMetaData(
            component=models[name],
            timestamp=datetime.fromisoformat(commit["date"]),
            properties=_properties({"commit": commit["hash"], "subject": commit["subject"]}),
        ),
        components=[*(model for one, model in models.items() if one != name), *data, *environment],
    )
    for one, model in models.items():
        read = {entry["path"] for entry in run["stages"][run["models"][one]["stage"]]["deps"]}
        rows = data if any(path.startswith("data/prepared/") for path in read) else []
        bom.register_dependency(
            model, [*(other for other in models.values() if other.name in read), *rows, *environment]
        )
    document = json.loads(JsonV1Dot6(bom).output_as_string())
    for component in [document["metadata"]["component"], *document["components"]]:
        if component["type"] == "machine-learning-model":
            component["modelCard"] = _model_card(run, component["name"].removeprefix("models/"))
        elif component["type"] == "data":
            component["data"] = [{"type": "dataset", "name": component["name"]}]
    return files.dump_json(document)


def _model(run: Run, name: str) -> Component:
    model = run["models"][name]
    stage = run["stages"][model["stage"]]
    facts = {"md5": model["md5"], "size_bytes": model["size_bytes"], "stage": model["stage"], "cmd": stage["cmd"]}
    if name == "base":
        facts["id"] = run["base"]["id"]
    if name == "awq":
        facts |= {f"gate.{gate}": _verdict(verdict) for gate, verdict in run["gates"].items()}
    return Component(
        type=ComponentType.MACHINE_LEARNING_MODEL,
        bom_ref=model["path"],
        name=model["path"],
        version=run["base"]["revision"] if name == "base" else run["commit"]["hash"],
        components=[_file(entry) for entry in model["files"]],
        properties=_properties(facts | stage["params"]),
    )


def _data(entry: dict[str, Any]) -> Component:
    component = _file(entry, ComponentType.DATA)
    known = entry["import"] or {}
    counts = {key: value for key, value in entry.items() if key.startswith("rows_")}
    component.properties = _properties(counts | {f"import.{key}": value for key, value in known.items()})
    if known.get("licence", "unknown") != "unknown":
        component.licenses = [LicenseFactory().make_from_string(known["licence"])]
    return component


def _environment(entry: dict[str, Any]) -> Component:
    """Describe the lock with the libraries that it pins."""
    lock = _file(entry)
    for line in entry["libraries"]:
        pinned = Requirement(line)
        (version,) = [one.version for one in pinned.specifier]
        lock.components.add(
            Component(
                type=ComponentType.LIBRARY,
                bom_ref=line,
                name=pinned.name,
                version=version,
                purl=PackageURL("pypi", name=pinned.name, version=version),
                properties=_properties({"marker": str(pinned.marker)} if pinned.marker else {}),
            )
        )
    return lock


def _file(entry: dict[str, Any], kind: ComponentType = ComponentType.FILE) -> Component:
    hashes = [
        HashType(alg=HashAlgorithm.MD5, content=entry["md5"]),
        HashType(alg=HashAlgorithm.SHA_256, content=entry["sha256"]),
    ]
    return Component(type=kind, bom_ref=entry["path"], name=entry["path"], hashes=hashes)


def _properties(values: dict[str, Any]) -> list[Property]:
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in values.items()}
    return [Property(name=f"lockstep:{key}", value=text) for key, text in texts.items()]


def _verdict(verdict: dict[str, Any]) -> str:
    word = "cannot be judged" if "problem" in verdict else "passed" if verdict["passed"] else "failed"
    return f"{word}: {cell(verdict['value'])}, {verdict['bound']} {cell(verdict['limit'])}"


def _model_card(run: Run, name: str) -> dict[str, Any]:
    parameters: dict[str, Any] = {"task": "text-generation", "modelArchitecture": run["base"]["architecture"]}
    if name != "base":
        parameters["approach"] = {"type": "supervised"}
        parameters["datasets"] = [{"ref": entry["path"]} for entry in run["data"]]
    scores = flat(run["metrics"].get(f"eval/{name}", {}))
    measured = [{"type": key, "value": cell(value)} for key, value in sorted(scores.items())]
    return {
        "modelParameters": parameters,
        "quantitativeAnalysis": {"performanceMetrics": measured},
        "considerations": {"technicalLimitations": limits_of_use(run)},
    }
