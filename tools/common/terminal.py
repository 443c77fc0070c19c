"""Terminal: the text of rows, safe to print."""


def visible(text: str) -> str:
    """Escape the characters that do not show or that control the terminal, as Python writes them in a string."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)
