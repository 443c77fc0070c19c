"""Write the default rows, data/raw/skills.jsonl: small tasks whose answers a program can check.

Every row is {"instruction", "input", "output"}. No two rows are the same, and the same seed gives the same bytes. Run
it with `make data`, or with `python -m tools.generate --rows 4000 --seed 7 --out data/raw/skills.jsonl`.
"""

import json
import random
from pathlib import Path

import click

from stages.base.tiny_tasks import SKILLS, WORDINGS


def draw_row(skill: str, rng: random.Random) -> dict[str, str]:
    """Draw one row: a task of this skill in one of its wordings."""
    task = SKILLS[skill](rng)
    wording = rng.choice(WORDINGS[skill])
    instruction = wording.format(argument=task.argument, given=task.given)
    if "{given}" in wording:
        return {"instruction": instruction, "input": "", "output": task.answer}
    if rng.random() < 0.5:
        return {"instruction": f"{instruction[:-1]}: {task.given}", "input": "", "output": task.answer}
    return {"instruction": instruction, "input": task.given, "output": task.answer}


@click.command(help=__doc__)
@click.option("--rows", type=click.IntRange(min=1), default=4000, show_default=True)
@click.option("--seed", type=int, default=7, show_default=True)
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), default=Path("data/raw/skills.jsonl"))
def main(rows: int, seed: int, out: Path) -> None:
    rng = random.Random(seed)
    lines: dict[str, None] = {}  # a dict keeps the order and has no row twice
    while len(lines) < rows:
        lines[json.dumps(draw_row(rng.choice(sorted(SKILLS)), rng))] = None
    out.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    click.echo(f"{out}: {len(lines)} rows")


if __name__ == "__main__":
    main()
