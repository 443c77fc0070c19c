"""`make docs` and its check in `make lint`: generated parts of the pages and of dvc.yaml."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from stage_runs import ROOT

from tools.docs import __main__ as docs


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that the command reads."""
    folder = tmp_path_factory.mktemp("docs")
    for name in ("AGENTS.md", "Makefile", "README.md", "dvc.yaml", "llms.txt", "params.yaml"):
        shutil.copy(ROOT / name, folder)
    for name in ("docs", "metrics", "stages", "tools"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.fixture
def project(template: Path, tmp_path: Path) -> Path:
    """A copy of them in tmp_path, where `succeed` and `fail` run."""
    return shutil.copytree(template, tmp_path, dirs_exist_ok=True)


@pytest.mark.slow
def test_an_import_that_is_no_dep_is_out_of_step(
    project: Path, succeed: Callable[..., str], fail: Callable[..., str]
) -> None:
    code = project / "stages" / "merge" / "rewrite.py"
    code.write_text(f"from stages.common import scores\n{code.read_text(encoding='utf-8')}", encoding="utf-8")
    assert fail(docs.main, "--check") == "out of step: dvc.yaml; run `make docs`"
    assert succeed(docs.main) == "written: dvc.yaml\n"
    succeed(docs.main, "--check")
    added = (project / "dvc.yaml").read_text(encoding="utf-8").replace("      - stages/common/scores.py\n", "", 1)
    assert added.count("stages/common/scores.py") == (ROOT / "dvc.yaml").read_text().count("stages/common/scores.py")


@pytest.mark.slow
def test_a_page_that_is_out_of_step_is_written_again(
    project: Path, succeed: Callable[..., str], fail: Callable[..., str]
) -> None:
    page = project / "docs" / "lineage.md"
    before = page.read_text(encoding="utf-8")
    page.write_text(before.replace("A git revision", "A revision"), encoding="utf-8")
    assert fail(docs.main, "--check") == "out of step: docs/lineage.md; run `make docs`"
    assert succeed(docs.main) == "written: docs/lineage.md\n"
    assert page.read_text(encoding="utf-8") == before


def test_an_unknown_part_is_named(tmp_path: Path, fail: Callable[..., str]) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- no such -->\n<!-- /no such -->\n", encoding="utf-8")
    with pytest.raises(Exception, match=r"page\.md: no generated part has the name no such; correct it"):
        docs.fill(page, {})
