"""`make docs` and its check in `make lint`: generated parts of the pages and of dvc.yaml."""

import shutil
from collections.abc import Callable
from pathlib import Path

import needs
import pytest
from checkouts import put_defaults
from stage_runs import ROOT

from tools.docs import __main__ as docs


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that the command reads."""
    folder = tmp_path_factory.mktemp("docs")
    for name in ("AGENTS.md", "Makefile", "README.md", "dvc.yaml", "llms.txt", "params.yaml"):
        shutil.copy(ROOT / name, folder)
    for name in ("docs", "metrics", "recipes", "stages", "tools"):
        if (ROOT / name).exists():  # a user's project may have no run
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    put_defaults(folder)
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


@pytest.mark.slow
def test_a_user_s_readme_settings_and_results_are_not_out_of_step(
    project: Path, succeed: Callable[..., str], fail: Callable[..., str]
) -> None:
    needs.default()
    scores = project / "metrics" / "merge.json"
    scores.write_text(scores.read_text(encoding="utf-8").replace('"kl_mean"', '"kl_mean": 0.25, "old"'), "utf-8")
    assert fail(docs.main, "--check").startswith("out of step: README.md; run")
    params = project / "params.yaml"
    params.write_text(params.read_text(encoding="utf-8").replace("  r: 16 ", "  r: 8 "), encoding="utf-8")
    succeed(docs.main, "--check")
    readme = "# Ours\n\n<!-- results -->\nNone yet.\n<!-- /results -->\n\nOur words.\n"
    (project / "README.md").write_text(readme, encoding="utf-8")
    succeed(docs.main, "--check")
    assert succeed(docs.main) == "written: README.md\n"
    written = (project / "README.md").read_text(encoding="utf-8")
    assert "mean KL 2.5e-01" in written
    assert written.startswith("# Ours\n")
    assert written.endswith("\n\nOur words.\n")


@pytest.mark.slow
def test_without_a_run_results_and_pictures_stay_as_they_are(project: Path, succeed: Callable[..., str]) -> None:
    shutil.rmtree(project / "metrics", ignore_errors=True)
    before = (project / "README.md").read_text(encoding="utf-8")
    succeed(docs.main)
    succeed(docs.main, "--check")
    assert (project / "README.md").read_text(encoding="utf-8") == before


def test_an_unknown_part_is_named(tmp_path: Path, fail: Callable[..., str]) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- no such -->\n<!-- /no such -->\n", encoding="utf-8")
    with pytest.raises(Exception, match=r"page\.md: no generated part has the name no such; correct it"):
        docs.fill(page, {})
