"""Marks: generation markers for chat templates of which TRL has no version with markers, by the edits in marks.yaml.

They apply to the model's own text, so all else in it stays. The probes then prove that it renders the same.
"""

import re
from pathlib import Path

from stages.common.params import read_yaml

EDITS = Path(__file__).with_name("marks.yaml")


def mark(template: str) -> dict[str, str]:
    """Return the template with markers, by the name of each family whose edits apply.

    Args:
        template: a chat template without markers.
    """
    marked = {}
    for family in read_yaml(EDITS):
        text: str | None = template
        for edit in family["edits"]:
            text = _replace(text, edit["before"], edit["after"]) if text is not None else None
        if text is not None:
            marked[str(family["family"])] = text
    return marked


def _replace(text: str, before: str, after: str) -> str | None:
    """Replace every `before`; None where there is none."""
    pattern = re.escape(before).replace(re.escape("\\n"), r"(?:\\n|\n)")
    replaced, count = re.subn(pattern, lambda _: after, text)
    return replaced if count else None
