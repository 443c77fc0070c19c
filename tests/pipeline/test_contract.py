"""The contract between dvc.yaml, params.yaml and the code: what is written twice must agree."""

import importlib
import re
import subprocess
from pathlib import Path
from typing import Any

import click
import pytest
from pydantic import BaseModel
from ruamel.yaml import YAML

from stages.common.params import Section, load_params
from tools.docs.code_deps import list_code_deps

ROOT = Path(__file__).parents[2]
DEFAULTS = ROOT / "recipes" / "tiny.yaml"  # params.yaml may be a user's own
PIPELINE: dict[str, Any] = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]
PARAMS: dict[str, Any] = YAML(typ="safe").load(DEFAULTS)
UNTRACKED = {"train.machine"}


def paths_of(entries: list[Any]) -> set[str]:
    return {next(iter(entry)) if isinstance(entry, dict) else entry for entry in entries}


def written(stage: dict[str, Any]) -> set[str]:
    return {path for kind in ("outs", "metrics", "plots") for path in paths_of(stage.get(kind, []))}


def test_the_stages_are_the_files_in_stages() -> None:
    packages = {path.parent.name for path in (ROOT / "stages").glob("*/__main__.py")}
    assert packages == set(PIPELINE)


def test_the_params_sections_are_the_stages_gates_and_serve() -> None:
    assert set(PARAMS) == (set(PIPELINE) - {"report"}) | {"gates", "serve"}


@pytest.mark.parametrize("name", PIPELINE)
def test_every_import_is_a_dep_and_every_code_dep_is_imported(name: str) -> None:
    deps = [dep for dep in PIPELINE[name]["deps"] if dep.startswith("stages/")]
    assert deps == sorted(list_code_deps(name)), "run `make docs`"


@pytest.mark.parametrize("name", PIPELINE)
def test_every_stage_depends_on_the_environment_lock(name: str) -> None:
    assert "requirements/pipeline.txt" in PIPELINE[name]["deps"]


@pytest.mark.parametrize("name", PIPELINE)
def test_the_command_is_one_line_through_the_launcher(name: str) -> None:
    command = PIPELINE[name]["cmd"].strip()
    assert "\n" not in command
    assert command.startswith("docker/run ")
    assert f"python -m stages.{name}" in command


@pytest.mark.parametrize("name", PIPELINE)
def test_desc_is_the_first_line_of_the_help(name: str) -> None:
    summary = (importlib.import_module(f"stages.{name}.__main__").__doc__ or "").splitlines()[0]
    assert PIPELINE[name]["desc"] == summary


@pytest.mark.parametrize("name", PIPELINE)
def test_default_paths_are_deps_or_outs(name: str) -> None:
    command = importlib.import_module(f"stages.{name}.__main__").main
    known = set(PIPELINE[name]["deps"]) | written(PIPELINE[name]) | {"params.yaml"}
    for option in command.params:
        if not isinstance(option, click.Option) or not isinstance(option.default, str):
            continue
        inside = any(path.startswith(f"{option.default}/") for path in known)
        assert option.default in known or inside, f"{option.opts[0]} {option.default}"


@pytest.mark.parametrize("name", [name for name in PIPELINE if name != "report"])
def test_every_key_of_the_section_is_tracked(name: str) -> None:
    keys = {f"{name}.{key}" for key in PARAMS[name]} - UNTRACKED
    assert set(PIPELINE[name]["params"]) == keys


@pytest.mark.parametrize("name", [*PIPELINE, "gates"])
def test_the_section_has_exactly_the_keys_of_its_class(name: str) -> None:
    module = importlib.import_module(f"stages.{'report' if name in ('gates', 'report') else name}.params")
    section = "gates" if name == "report" else name
    classes = {value.__name__: value for value in vars(module).values() if isinstance(value, type)}
    model: type[BaseModel] = classes[f"{section.capitalize()}Params"]
    assert issubclass(model, Section)
    assert set(PARAMS[section]) == set(model.model_fields)
    load_params(DEFAULTS, section, model)


@pytest.mark.parametrize("name", PIPELINE)
def test_uncached_outs_are_metrics_or_plots(name: str) -> None:
    """DVC keeps no run of a stage with other uncached outs, so going back to old params would run it again."""
    assert [out for out in PIPELINE[name].get("outs", []) if isinstance(out, dict)] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", PIPELINE)
def test_git_ignores_cached_outs_and_nothing_else(name: str) -> None:
    for kind in ("outs", "metrics", "plots"):
        for entry in PIPELINE[name].get(kind, []):
            path, options = next(iter(entry.items())) if isinstance(entry, dict) else (entry, {})
            path = path.replace("${item.model}", "base")
            ignored = subprocess.run(["git", "check-ignore", "-q", f"{path}"], cwd=ROOT, check=False).returncode == 0
            assert ignored == options.get("cache", True), path


def test_every_number_has_a_reason() -> None:
    lines = DEFAULTS.read_text(encoding="utf-8").splitlines()
    leaves = [line for line in lines if line.strip() and not line.lstrip().startswith("#")]
    bare = [line for line in leaves if not re.search("#|reason: ", line) and not line.rstrip().endswith(":")]
    assert bare == []
