"""`make update`: later versions merge, and what is the user's stays."""

import shutil
from pathlib import Path

import pytest
from checkouts import WHO, commit, committed_copy, git
from stage_runs import fail_in, succeed_in

from stages.common import files
from tools import update as tool
from tools.new import __main__ as new
from tools.preflight import load_sections

pytestmark = pytest.mark.slow  # git runs as a process
OWN = ("README.md", "params.yaml", "dvc.lock", "metrics/train.json", "data/raw/mine.jsonl", "recipes/mine.yaml")


@pytest.fixture(autouse=True)
def who(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in WHO.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a checkout of Lockstep and a project made from it, in which a user works."""
    folder = tmp_path_factory.mktemp("update")
    origin = committed_copy(folder / "lockstep")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in WHO.items():
            patch.setenv(name, value)
        succeed_in(origin, new.main, folder / "mine")
    project = folder / "mine"
    (project / "metrics").mkdir()
    edit(project / "params.yaml", "num_train_epochs: 3 ", "num_train_epochs: 5 ")
    edit(project / "README.md", "## Commands", "Our words.\n\n## Commands")
    for name in OWN[2:]:
        (project / name).write_text(f"# {name}\n", encoding="utf-8")
    commit(project, "our work")
    return folder


@pytest.fixture
def origin(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made / "mine", tmp_path / "mine", symlinks=True)
    git(tmp_path / "mine", "remote", "set-url", "lockstep", str(tmp_path / "lockstep"))
    return shutil.copytree(made / "lockstep", tmp_path / "lockstep", symlinks=True)


@pytest.fixture
def project(origin: Path) -> Path:
    return origin.parent / "mine"


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def contents(project: Path) -> dict[str, bytes]:
    return {name: (project / name).read_bytes() for name in OWN}


def test_several_versions_merge_and_what_is_the_users_stays(origin: Path, project: Path) -> None:
    before = contents(project)
    edit(origin / "stages" / "train" / "plan.py", '"""', '"""New. ')
    edit(origin / "params.yaml", "  r: 16 ", "  r: 64 ")
    edit(origin / "README.md", "\n", "\nnew words\n")
    (origin / "data/raw/skills.jsonl").write_text('{"text": "other default rows"}\n', encoding="utf-8")
    (origin / "data/raw/more.jsonl").write_text('{"text": "more default rows"}\n', encoding="utf-8")
    commit(origin, "first")
    for name in ("metrics/train.json", "dvc.lock"):
        (origin / name).parent.mkdir(exist_ok=True)
        (origin / name).write_text("{}\n", encoding="utf-8")
    git(origin, "mv", "recipes/phi-4.yaml", "recipes/phi-5.yaml")
    last = commit(origin, "second")

    printed = succeed_in(project, tool.main)
    assert printed.startswith(f"merged 2 commits of Lockstep, up to {last[:12]}\n")
    assert "next: `make repro`" in printed
    assert contents(project) == before
    assert sorted(path.name for path in (project / "data/raw").iterdir()) == [".gitignore", "mine.jsonl"]
    assert "New. " in (project / "stages" / "train" / "plan.py").read_text(encoding="utf-8")
    assert (project / "recipes" / "phi-5.yaml").exists()
    assert not (project / "recipes" / "phi-4.yaml").exists()
    assert git(project, "status", "--porcelain") == ""
    assert git(project, "merge-base", "HEAD", last).strip() == last
    assert succeed_in(project, tool.main) == f"already has Lockstep {last[:12]}\n"


def test_a_conflict_waits_names_the_file_and_can_be_taken_back(origin: Path, project: Path) -> None:
    edit(origin / "Makefile", "## list the targets", "## list all targets")
    edit(origin / "README.md", "\n", "\nnew words\n")
    last = commit(origin, "theirs")
    edit(project / "Makefile", "## list the targets", "## list our targets")
    ours = commit(project, "ours")
    said = fail_in(project, tool.main)
    assert said == f"changed here and in Lockstep {last[:12]}:\n  Makefile\n{tool.GO_ON}"
    assert "<<<<<<< HEAD" in (project / "Makefile").read_text(encoding="utf-8")
    assert fail_in(project, tool.main) == f"a merge is in progress; {tool.GO_ON}"

    git(project, "merge", "--abort")
    assert git(project, "rev-parse", "HEAD").strip() == ours
    assert git(project, "status", "--porcelain") == ""
    assert "## list our targets" in (project / "Makefile").read_text(encoding="utf-8")

    before = contents(project)
    fail_in(project, tool.main)
    git(project, "checkout", "--ours", "--", "Makefile")
    commit(project, "merged")
    assert contents(project) == before
    assert succeed_in(project, tool.main) == f"already has Lockstep {last[:12]}\n"


def test_new_settings_are_named_and_added_on_request(origin: Path, project: Path) -> None:
    """The project's settings lack a key, a gate, a section in a section and a section."""
    text = (project / "params.yaml").read_text(encoding="utf-8")
    lines = text.splitlines(keepends=True)
    start, stop = (
        next(n for n, line in enumerate(lines) if line.startswith(name)) for name in ("compare:", "gates:")
    )
    gguf = next(n for n, line in enumerate(lines) if line.startswith("  gguf:"))
    kept = [*lines[:gguf], *lines[gguf + 5 : start], *lines[stop:]]
    kept = [line for line in kept if not line.startswith(("  seed: 7                # for rounding", "  awq_kept"))]
    (project / "params.yaml").write_text("".join(kept) + "old: 1\n", encoding="utf-8")
    commit(project, "older settings")
    (origin / "note.txt").touch()
    commit(origin, "a version")

    printed = succeed_in(project, tool.main)
    for name in ("base.gguf.file", "merge.seed", "compare.score", "gates.awq_kept"):
        assert f"params.yaml: {name}: new: {name.rpartition('.')[2]}:" in printed
    assert "next: add these lines to params.yaml, or `make update ADD=1` does it\n" in printed
    assert "params.yaml: old: this version does not know it; delete the line, see CHANGELOG.md\n" in printed
    assert "`make repro`" not in printed
    succeed_in(project, tool.main, "--add")
    written = (project / "params.yaml").read_text(encoding="utf-8")
    assert "num_train_epochs: 5 " in written
    edit(project / "params.yaml", "old: 1\n", "")
    load_sections(project / "params.yaml")
    commit(project, "newer settings")
    assert succeed_in(project, tool.main).count("\n") == 1


def test_a_clone_of_the_project_knows_the_address_and_a_version_can_be_chosen(origin: Path, project: Path) -> None:
    edit(project / "project.yaml", "address: ", f"address: {origin}  # ")
    commit(project, "address")
    (origin / "one.txt").touch()
    commit(origin, "one")
    git(origin, "tag", "v9")
    (origin / "two.txt").touch()
    commit(origin, "two")
    clone = project.with_name("clone")
    git(project, "clone", "--quiet", "--", str(project), str(clone))
    assert succeed_in(clone, tool.main, "--rev", "v9").startswith("merged 1 commits")
    assert (clone / "one.txt").exists()
    assert not (clone / "two.txt").exists()


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("dirty", "Makefile: changed since the last commit; commit first, or `git stash`"),
        ("no project", "project.yaml: no such file: this is no project that `make new` made; use `git pull`"),
        ("no address", "`git remote set-url lockstep ADDRESS` sets another address"),
        ("untracked", "note.txt"),
        ("option", "--rev: '--upload-pack=x': name a tag, branch or commit of Lockstep"),
    ],
)
def test_nothing_changes_where_it_cannot_merge(origin: Path, project: Path, case: str, message: str) -> None:
    (origin / "note.txt").write_text("theirs", encoding="utf-8")
    commit(origin, "a version")
    if case == "dirty":
        edit(project / "Makefile", "## list the targets", "## list our targets")
    if case == "no project":
        git(project, "rm", "--quiet", "project.yaml")
        commit(project, "not one")
    if case == "no address":
        git(project, "remote", "set-url", "lockstep", str(project / "none"))
    if case == "untracked":
        (project / "note.txt").write_text("ours", encoding="utf-8")
    before, status = files.hashes(project / "tools"), git(project, "status", "--porcelain")
    said = fail_in(project, tool.main, *(["--rev", "--upload-pack=x"] if case == "option" else []))
    assert message in said
    assert (files.hashes(project / "tools"), git(project, "status", "--porcelain")) == (before, status)
    assert not (project / "note.txt").exists() or (project / "note.txt").read_text(encoding="utf-8") == "ours"
