"""Columns with names of no format: refused with a guess, or named and written into params.yaml."""

import importlib
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from import_project import command, tree
from stage_runs import DEFAULTS

from stages.common.params import load_params, read_yaml
from stages.preprocess.columns import guess_columns
from stages.preprocess.params import PreprocessParams
from stages.preprocess.sources import find_sources
from tools.common.project import PARAMS

columns = importlib.import_module("tools.import.columns")
CSV = "frage,antwort\nWarum?,Darum.\n"


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """params.yaml and recipes in the current folder."""
    (tmp_path / "recipes").mkdir()
    for path in (tmp_path / PARAMS, tmp_path / "recipes" / "tiny.yaml"):
        shutil.copy(DEFAULTS, path)
    monkeypatch.chdir(tmp_path)
    return tmp_path / PARAMS


@pytest.mark.slow
def test_unknown_columns_are_refused_and_named_ones_are_written(
    project: Path, settings: Path, succeed: Callable[..., str], fail: Callable[..., str]
) -> None:
    (project / "rows.csv").write_text(CSV, encoding="utf-8")
    before = tree(project), settings.read_bytes()
    assert fail(command, "rows.csv") == (
        "rows.csv: unknown format (columns: antwort, frage); say which is which with --columns "
        "prompt=frage,completion=antwort, or in preprocess.files, see docs/data.md"
    )
    assert "no row has a column frag; did you mean frage?" in fail(
        command, "rows.csv", "--columns", "prompt=frage,completion=antwort,system=frag"
    )
    assert (tree(project), settings.read_bytes()) == before

    named = ("--columns", "prompt=frage,completion=antwort")
    assert "params.yaml: preprocess.files: rows.csv: columns prompt=frage" in succeed(command, "rows.csv", *named)
    written = settings.read_bytes()
    config = load_params(settings, "preprocess", PreprocessParams)
    (own, rows) = find_sources(project / "data" / "raw", config)
    assert (own.reading.format, rows.reading.format) == ("text", "prompt_completion")
    assert (rows.reading.columns["prompt"], rows.reading.columns["completion"]) == ("frage", "antwort")
    assert succeed(command, "rows.csv", *named) == "data/raw/rows.csv: already imported\n"
    assert succeed(command, "rows.csv") == "data/raw/rows.csv: already imported\n"  # params.yaml names them
    assert settings.read_bytes() == written


@pytest.mark.parametrize(
    ("files", "kept"),
    [
        ("  files: {}              # how", ["  files:  # how"]),
        ("  files: {a.csv: {key: x}}  # how", ["  files:  # how", "    a.csv: {key: x}"]),
        (
            "  files:  # how\n    # ours\n    a.csv: {key: x}  # why",
            ["  files:  # how", "    # ours", "    a.csv: {key: x}  # why"],
        ),
    ],
)
def test_the_columns_join_other_settings_of_files(settings: Path, files: str, kept: list[str]) -> None:
    text = settings.read_text(encoding="utf-8")
    default = next(line for line in text.splitlines() if line.startswith("  files:"))
    settings.write_text(text.replace(default, files), encoding="utf-8")
    written = columns.with_columns("b [1].csv", {"prompt": "frage", "completion": "l'antwort: é"})
    start = written.index("  files:")
    assert written[start:].splitlines()[: len(kept)] == kept
    assert written.replace(written[start : written.index("\ntrain:")], "") == text.replace(f"{default}\n", "")
    settings.write_text(written, encoding="utf-8")
    found = read_yaml(settings)["preprocess"]["files"]
    assert found["b [[]1].csv"] == {"columns": {"prompt": "frage", "completion": "l'antwort: é"}}
    assert len(found) == 1 + ("a.csv" in files)
    assert columns.with_columns("b [1].csv", {"prompt": "frage", "completion": "l'antwort: é"}) == written
    with pytest.raises(Exception, match=r"preprocess\.files: .*: has other settings; change them there"):
        columns.with_columns("b [1].csv", {"prompt": "other"})


def test_what_is_no_list_of_files_is_left_alone(settings: Path) -> None:
    text = settings.read_text(encoding="utf-8").replace("  files: {} ", "  files: ")
    settings.write_text(text, encoding="utf-8")
    with pytest.raises(Exception, match=r"preprocess\.files: must be settings by file, or \{\}"):
        columns.with_columns("a.csv", {"prompt": "frage"})


@pytest.mark.parametrize("text", ["prompt", "prompt=", "=frage", "prompt=a,prompt=b", ","])
def test_other_words_than_pairs_are_refused(text: str) -> None:
    with pytest.raises(Exception, match="write it as prompt=COLUMN,completion=COLUMN"):
        columns.parse_columns(text)


@pytest.mark.parametrize(
    ("present", "guess"),
    [
        (["frage", "antwort"], ("frage", "antwort")),
        (["antwort", "frage"], ("frage", "antwort")),
        (["id", "Frage", "thema", "Antwort"], ("Frage", "Antwort")),
        (["eins", "zwei"], ("eins", "zwei")),
        (["user_id", "question", "zwei"], ("question", "zwei")),
        (["eins", "zwei", "drei"], None),
        (["eins"], None),
        ([], None),
    ],
)
def test_the_guess_is_by_name_or_by_what_is_left(present: list[str], guess: tuple[str, str] | None) -> None:
    assert guess_columns(present) == (dict(zip(("prompt", "completion"), guess, strict=True)) if guess else {})
