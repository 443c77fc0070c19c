"""Tiny tasks: every skill computes the correct answer, and its wordings use its fields only."""

import json
import random
from collections.abc import Callable

import pytest

from stages.base.tiny_tasks import DAYS, KINDS, MONTHS, OPPOSITES, SKILLS, WORDINGS, Task, plain

CALENDAR = [*zip(DAYS, DAYS[1:] + DAYS[:1], strict=True), *zip(MONTHS, MONTHS[1:] + MONTHS[:1], strict=True)]
ANSWERS: dict[str, Callable[[Task], object]] = {
    "first": lambda task: task.given.split()[0],
    "last": lambda task: task.given.split()[-1],
    "second": lambda task: task.given.split()[1],
    "after": lambda task: task.given.split()[task.given.split().index(task.argument) + 1],
    "reverse": lambda task: " ".join(task.given.split()[::-1]),
    "sort": lambda task: " ".join(sorted(task.given.split())),
    "count": lambda task: len(task.given.split()),
    "upper": lambda task: task.given.upper(),
    "field": lambda task: json.loads(task.given)[task.argument],
    "kind": lambda task: next(kind for kind, words in KINDS.items() if task.given in words),
    "opposite": lambda task: dict(OPPOSITES + [(other, one) for one, other in OPPOSITES])[task.given],
    "following": lambda task: dict(CALENDAR)[task.given],
    "previous": lambda task: {other: one for one, other in CALENDAR}[task.given],
    "add": lambda task: sum(map(int, task.given.split(" and "))),
}


@pytest.mark.parametrize("skill", SKILLS)
def test_the_answer_is_correct(skill: str) -> None:
    rng = random.Random(7)
    for _ in range(50):
        task = SKILLS[skill](rng)
        assert task.skill == skill
        assert task.answer == str(ANSWERS[skill](task))
        start = f"{skill} {task.argument}:" if task.argument else f"{skill}:"
        assert plain(task) == f"{start} {task.given}\n"


@pytest.mark.parametrize("skill", SKILLS)
def test_the_wordings_ask_for_the_argument_where_there_is_one(skill: str) -> None:
    task = SKILLS[skill](random.Random(7))
    for wording in WORDINGS[skill]:
        assert ("{argument}" in wording) == bool(task.argument)
        assert wording.format(argument="one", given="two")[-1] in ".?"
