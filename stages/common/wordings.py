"""Wordings: how people ask for the skills of the tiny model."""

# How people ask, per skill. {argument} stands for the task's argument, {given} for what it is given; a wording
# without {given} gets it after a colon in place of the last mark, or in the row's input field.
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
