"""docs/tour.ipynb: it runs from a fresh clone to its last cell, and holds no outputs."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbclient
import nbformat
import pytest
from recorded import commit, run
from stage_runs import ROOT

TOUR = ROOT / "docs" / "tour.ipynb"
OURS = ("DVC_ROOT", "RUN", "MAKEFLAGS", "MAKELEVEL", "MFLAGS")


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A clone of a repository with the working tree's files, without models and without DVC's cache."""
    source = tmp_path / "source"
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines():
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, source / name)
    run(source, "git", "init", "--quiet")
    commit(source, "start")
    run(tmp_path, "git", "clone", "--quiet", str(source), "clone")
    for name in ("pyproject.toml", "requirements/pipeline.txt"):  # older than the environment, which is complete
        os.utime(tmp_path / "clone" / name, (0, 0))
    return tmp_path / "clone"


def printed(cell: dict[str, Any]) -> str:
    """What a cell printed."""
    return "".join(output["text"] for output in cell["outputs"] if output["output_type"] == "stream")


@pytest.mark.slow
def test_the_tour_runs_from_a_fresh_clone(clone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in OURS:
        monkeypatch.delenv(name, raising=False)
    for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    monkeypatch.setenv("VENV", os.environ.get("VENV", sys.prefix))
    monkeypatch.setenv("RUNTIME", "local")
    before = run(clone, "git", "status", "--porcelain")
    tour = nbformat.read(clone / "docs" / "tour.ipynb", as_version=4)
    nbclient.NotebookClient(tour, timeout=900, resources={"metadata": {"path": str(clone / "docs")}}).execute()
    texts = {cell["source"]: printed(cell) for cell in tour.cells if cell["cell_type"] == "code"}
    shown = "\n".join(texts.values())
    assert "every stage ran, in " in shown
    assert "rows_read " in shown
    assert "perplexity, merged - base: " in shown
    assert "FAILED" in shown  # two steps train nothing
    assert "commit " in shown
    assert next(text for source, text in texts.items() if "model.generate" in source).strip()
    assert any("image/png" in output.get("data", {}) for cell in tour.cells for output in cell.get("outputs", []))
    assert run(clone, "git", "status", "--porcelain") == before == ""


def test_the_tour_holds_no_outputs() -> None:
    """They differ between machines; docs/ has real ones."""
    tour = nbformat.read(TOUR, as_version=4)
    code = [cell for cell in tour.cells if cell["cell_type"] == "code"]
    assert [cell["source"] for cell in code if cell["outputs"] or cell["execution_count"]] == []


@pytest.mark.slow
def test_without_a_clone_around_it_the_tour_asks_for_an_address(tmp_path: Path) -> None:
    """As on Colab, where its first cell clones."""
    first = next(cell for cell in nbformat.read(TOUR, as_version=4).cells if cell["cell_type"] == "code")["source"]
    done = subprocess.run([sys.executable, "-c", first], cwd=tmp_path, capture_output=True, text=True)
    assert done.stderr.strip() == "set REPOSITORY to the address of the repository"
    source = tmp_path / "origin"
    source.mkdir()
    (source / "dvc.yaml").touch()
    run(source, "git", "init", "--quiet")
    commit(source, "start")
    first = first.replace('REPOSITORY = ""', f"REPOSITORY = {str(source)!r}") + "\nprint(os.getcwd())\n"
    done = subprocess.run([sys.executable, "-c", first], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.strip() == str(tmp_path / "lockstep"), done.stderr
