"""Tiny tasks: sorting, counting, sums, opposites and other small tasks whose answers are computed.

The tiny model is pretrained on them in plain notation (`plain`: "sort: pear fig", next line "fig pear"). The default
instruction data asks for the same skills in words (`WORDINGS`, used by tools/generate.py). So fine-tuning has
something real to learn: to connect skills that the base model has with the words that people use.
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
    """One task: a skill, its argument (may be empty), the given text, and the only correct answer."""

    skill: str
    argument: str
    given: str
    answer: str


def pick(rng: random.Random, low: int, high: int) -> list[str]:
    """Draw `low` to `high` different words."""
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
    """Draw a day or month and the next one; the first follows the last."""
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
    """Return the task in plain notation, up to the answer."""
    return f"{task.skill}{' ' * bool(task.argument)}{task.argument}: {task.given}\n"


# How people ask for each skill. {argument} and {given} stand for the task's fields. Where a wording has no {given},
# the text follows the wording after a colon, or goes into the row's input field.
WORDINGS: dict[str, list[str]] = {
    "first": ["Give me the first word.", "What is the first word here?", "Which word comes first in this list?"],
    "last": ["Give me the last word.", "What is the last word here?", "Which word comes last in this list?"],
    "second": ["Give me the second word.", "What is the second word here?", "Which word is number two here?"],
    "after": ["Which word stands after {argument}?", "Find the word behind {argument}.", "What follows {argument}?"],
    "reverse": ["Write these words in reverse order.", "Turn this list around.", "Say the words backwards."],
    "sort": ["Sort these words.", "Put the words in alphabetical order.", "Order this list from A to Z."],
    "count": ["How many words are there?", "Count the words in this list.", "Give the number of words."],
    "upper": ["Write this in capital letters.", "Make it upper case.", "Change every letter to a capital."],
    "field": ["What is the {argument}?", "Read the {argument} from this record.", "Give the value of {argument}."],
    "kind": ["Is it an animal, a food, a colour or a tool?", "What kind of thing is {given}?", "Name the kind."],
    "opposite": ["What is the opposite of {given}?", "Give the word that means the opposite.", "Name the opposite."],
    "following": [
        "What comes after {given}?",
        "Which one follows {given}?",
        "Name the next day or month.",
        "{given} is over. What begins now?",
        "Go one step forward in the calendar.",
    ],
    "previous": [
        "What comes before {given}?",
        "Which one precedes {given}?",
        "Name the previous day or month.",
        "{given} has begun. What is over now?",
        "Go one step back in the calendar.",
    ],
    "add": ["What do you get when you add {given}?", "Find the sum of the numbers.", "What is the total of {given}?"],
}
