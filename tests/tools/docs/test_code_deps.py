"""Code deps: which files a stage runs, and how they are written into dvc.yaml."""

from pathlib import Path

import pytest
from stage_runs import ROOT

from tools.docs.code_deps import fill_code_deps, list_code_deps

PIPELINE = """\
# The pipeline.
stages:
  one:  # first
    cmd: python -m stages.one
    deps:
      # the rows
      - data/raw  # in git
      - stages/common/gone.py
      - stages/common/used.py  # by one
      # at the end
    outs:
      - stages/out  # not a dep

  two:
    matrix:
      model: [a, b]

    deps:
      - stages/one
    outs:
      - x
"""


@pytest.fixture
def stages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two stages and three modules of stages/common, one of which another imports."""
    monkeypatch.chdir(tmp_path)
    texts = {
        "one/__main__.py": "def main():\n    from stages.common import used\n",
        "one/rows.py": "import stages.common.rows\n",
        "two/__main__.py": "import json\n",
        "common/used.py": "if TYPE_CHECKING:\n    from stages.common.inner import Type\n",
        "common/inner.py": "",
        "common/rows.py": "",
        "common/unused.py": "",
    }
    for name, text in texts.items():
        path = tmp_path / "stages" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return tmp_path / "stages"


def test_a_stage_depends_on_its_folder_and_on_what_it_imports_directly_or_not(stages: Path) -> None:
    common = [f"stages/common/{name}.py" for name in ("inner", "rows", "used")]
    assert list_code_deps("one") == ["stages/one", *common]
    assert list_code_deps("two") == ["stages/two"]


def test_other_deps_and_comments_stay(stages: Path) -> None:
    assert fill_code_deps(PIPELINE).splitlines() == [
        *PIPELINE.splitlines()[:7],
        "      - stages/common/inner.py",
        "      - stages/common/rows.py",
        "      - stages/common/used.py  # by one",
        "      - stages/one",
        *PIPELINE.splitlines()[9:18],
        "      - stages/two",
        *PIPELINE.splitlines()[19:],
    ]


def test_what_is_in_step_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    text = (ROOT / "dvc.yaml").read_text(encoding="utf-8")
    assert fill_code_deps(text) == text
