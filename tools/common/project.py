"""Project: what in a checkout belongs to its user, and whether it is Lockstep as it comes."""

from pathlib import Path

from stages.common.params import read_yaml

PROJECT = Path("project.yaml")  # `make new` writes it: a checkout that has one is a project of its user
REMOTE = "lockstep"  # the remote of a project that later versions come from
README = Path("README.md")
PARAMS, DEFAULTS = Path("params.yaml"), Path("recipes/tiny.yaml")
ROWS = Path("data/raw/skills.jsonl")
# Limits for any rows, in place of those of the default rows.
SETTINGS = Path(__file__).parents[1] / "new" / "settings.yaml"
# What `make docs` draws from metrics: of the committed run here, of the user's own in a project.
LOSS, SCORES = Path("docs/images/loss.svg"), Path("docs/images/scores.svg")
LENGTHS, OUTCOMES = Path("docs/images/lengths.png"), Path("docs/images/outcomes.png")
RUN = (Path("dvc.lock"), Path("metrics"), LOSS, SCORES, LENGTHS, OUTCOMES)


def is_default(root: Path = Path()) -> bool:
    """Whether a checkout has Lockstep's own README, settings and rows, of which its pages and its run tell."""
    if (root / PROJECT).exists() or not (root / README).read_text(encoding="utf-8").startswith("# Lockstep\n"):
        return False
    rows = [path for path in (root / ROWS.parent).glob("*") if not path.name.startswith(".")]
    return rows == [root / ROWS] and read_yaml(root / PARAMS) == read_yaml(root / DEFAULTS)
