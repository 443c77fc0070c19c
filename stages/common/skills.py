"""Small checkable tasks: sorting, counting, picking, sums, opposites and the like, every answer computed.

The built-in base model (stages/common/tiny.py) is pretrained on them in plain notation ("sort: pear fig", next line
"fig pear"); the default instruction data (tools/generate.py) asks for the same skills in words. So fine-tuning has
something real to do: connect what the base model can nearly do with how people ask for it.
"""

import json
import random
from collections.abc import Callable
from typing import NamedTuple

KINDS = {
    "animal": ["bear", "cat", "crow", "deer", "dog", "frog", "goat", "horse", "lion", "mouse", "sheep", "wolf"],
    "food": ["apple", "bread", "cake", "cheese", "fig", "honey", "lemon", "milk", "pear", "plum", "rice", "soup"],
    "colour": ["black", "blue", "brown", "green", "grey", "pink", "purple", "red", "white", "yellow"],
    "tool": ["axe", "brush", "drill", "fork", "hammer", "knife", "nail", "rope", "saw", "spoon"],
}
WORDS = sorted(word for words in KINDS.values() for word in words)
OPPOSITES = [
    ("hot", "cold"), ("big", "small"), ("fast", "slow"), ("early", "late"), ("open", "closed"), ("full", "empty"),
    ("hard", "soft"), ("high", "low"), ("light", "dark"), ("long", "short"), ("loud", "quiet"), ("near", "far"),
    ("new", "old"), ("rich", "poor"), ("strong", "weak"), ("wet", "dry"), ("wide", "narrow"), ("happy", "sad"),
    ("left", "right"), ("up", "down"), ("inside", "outside"), ("true", "false"),
]  # fmt: skip
DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
MONTHS = ["January", "February", "March", "April", "May", "June"]
MONTHS += ["July", "August", "September", "October", "November", "December"]


class Task(NamedTuple):
    """One task: a skill, its argument (empty where it takes none), what it is given, the only right answer."""

    skill: str
    argument: str
    given: str
    answer: str


def pick(rng: random.Random, low: int, high: int) -> list[str]:
    """Draw between `low` and `high` different words."""
    return rng.sample(WORDS, rng.randint(low, high))


def first(rng: random.Random) -> Task:
    words = pick(rng, 2, 5)
    return Task("first", "", " ".join(words), words[0])


def last(rng: random.Random) -> Task:
    words = pick(rng, 2, 5)
    return Task("last", "", " ".join(words), words[-1])


def second(rng: random.Random) -> Task:
    words = pick(rng, 3, 5)
    return Task("second", "", " ".join(words), words[1])


def after(rng: random.Random) -> Task:
    words = pick(rng, 2, 5)
    index = rng.randrange(len(words) - 1)
    return Task("after", words[index], " ".join(words), words[index + 1])


def reverse(rng: random.Random) -> Task:
    words = pick(rng, 2, 4)
    return Task("reverse", "", " ".join(words), " ".join(reversed(words)))


def sort(rng: random.Random) -> Task:
    words = pick(rng, 2, 3)
    return Task("sort", "", " ".join(words), " ".join(sorted(words)))


def count(rng: random.Random) -> Task:
    words = pick(rng, 1, 6)
    return Task("count", "", " ".join(words), str(len(words)))


def upper(rng: random.Random) -> Task:
    words = pick(rng, 1, 3)
    return Task("upper", "", " ".join(words), " ".join(words).upper())


def kind(rng: random.Random) -> Task:
    name = rng.choice(sorted(KINDS))
    return Task("kind", "", rng.choice(KINDS[name]), name)


def opposite(rng: random.Random) -> Task:
    one, other = rng.sample(rng.choice(OPPOSITES), 2)
    return Task("opposite", "", one, other)


def calendar(rng: random.Random) -> tuple[str, str]:
    """Two days or months in a row; the last is followed by the first."""
    names = rng.choice([DAYS, MONTHS])
    index = rng.randrange(len(names))
    return names[index], names[(index + 1) % len(names)]


def following(rng: random.Random) -> Task:
    one, other = calendar(rng)
    return Task("following", "", one, other)


def previous(rng: random.Random) -> Task:
    one, other = calendar(rng)
    return Task("previous", "", other, one)


def add(rng: random.Random) -> Task:
    one, other = rng.randint(0, 9), rng.randint(0, 9)
    return Task("add", "", f"{one} and {other}", str(one + other))


def field(rng: random.Random) -> Task:
    keys = rng.sample(sorted(KINDS), rng.randint(2, 3))
    record = {key: rng.choice(KINDS[key]) for key in keys}
    key = rng.choice(keys)
    return Task("field", key, json.dumps(record), record[key])


SKILLS: dict[str, Callable[[random.Random], Task]] = {
    draw.__name__: draw
    for draw in (
        first,
        last,
        second,
        after,
        reverse,
        sort,
        count,
        upper,
        field,
        kind,
        opposite,
        following,
        previous,
        add,
    )
}


def plain(task: Task) -> str:
    """Give the task in plain notation, up to where the answer begins."""
    return f"{task.skill}{' ' * bool(task.argument)}{task.argument}: {task.given}\n"
