"""The docs against the code: generated parts in step, trees and links true, help that answers."""

import importlib
import re
import subprocess
import sys
from pathlib import Path

import needs
import pytest
from ruamel.yaml import YAML

from tools.common.project import RUN, is_default

ROOT = Path(__file__).parents[2]
README = [ROOT / "README.md"] if is_default(ROOT) else []  # else it is a user's own
PAGES = [*README, *sorted((ROOT / "docs").glob("*.md"))]
STAGES = list(YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"])
TOOLS = [
    *sorted(path.stem for path in (ROOT / "tools").glob("*.py") if path.stem != "__init__"),
    *sorted(f"{path.parent.name}.__main__" for path in (ROOT / "tools").glob("*/__main__.py")),
]


def tree() -> list[str]:
    """Paths named in the README's tree, from the root."""
    needs.default()
    block = re.search(
        r"## The tree\n\n```text\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL
    )
    assert block
    paths, folder = [], ""
    for line in block[1].splitlines():
        name = line.split()[0]
        if not line.startswith(" "):
            folder = name if name.endswith("/") else ""
            paths.append(name)
        else:
            paths.append(folder + name)
    return paths


@pytest.mark.slow
def test_generated_parts_are_in_step() -> None:
    done = subprocess.run([sys.executable, "-m", "tools.docs", "--check"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_everything_in_the_tree_exists() -> None:
    assert [path for path in tree() if not (ROOT / path).exists()] == []


@pytest.mark.slow
def test_everything_at_the_root_is_in_the_tree() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    top = {path.split("/")[0] for path in tracked if not path.startswith(".")}
    assert top == {path.split("/")[0] for path in tree()}


def test_every_stage_is_in_the_tree_in_pipeline_order() -> None:
    assert [path for path in tree() if path.startswith("stages/")] == [
        "stages/",
        *(f"stages/{name}/" for name in [*STAGES, "common"]),
    ]


def test_every_stage_has_a_page_and_a_test_file() -> None:
    for name in STAGES:
        assert (ROOT / "docs" / f"{name}.md").exists()
        assert list((ROOT / "tests" / name).glob("test_*.py")), name


def test_every_stage_page_shows_real_output() -> None:
    for name in STAGES:
        text = (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")
        assert re.search(rf"\$ dvc repro {name}\n(?!```)", text), name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    drawn = set() if is_default(ROOT) else {ROOT / path for path in RUN}  # of a run that a user may not have yet
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists() or page.parent / target in drawn, target


def test_every_command_and_every_target_is_on_a_page() -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    names = [*STAGES, *(name.removesuffix(".__main__") for name in TOOLS)]
    assert [name for name in names if f"<!-- help {name} -->" not in text] == []
    targets = re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert [target for target in targets if not re.search(rf"\bmake {target}\b", text)] == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "module", [*(f"stages.{name}.__main__" for name in STAGES), *(f"tools.{name}" for name in TOOLS)]
)
def test_help_is_the_module_docstring_and_imports_nothing_heavy(module: str) -> None:
    heavy = ("torch", "transformers", "datasets", "matplotlib")
    load = f"import importlib, sys; importlib.import_module({module!r})"  # `import tools.import` is no statement
    code = f"{load}; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
    loaded = importlib.import_module(module)
    assert loaded.main.help == loaded.__doc__


@pytest.mark.slow
def test_make_lists_every_target() -> None:
    done = subprocess.run(["make", "--no-print-directory"], cwd=ROOT, capture_output=True, text=True, check=True)
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.search(r"\.PHONY: (.*)", makefile)
    assert targets
    assert [line.split()[1] for line in done.stdout.splitlines()] == targets[1].split()
