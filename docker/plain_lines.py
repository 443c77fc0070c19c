"""Plain lines: what a command prints, as a file keeps it: no progress bar, but a line of it now and then.

A bar is drawn over itself with carriage returns, hundreds of times, and by many libraries. In a file or a pipe each
drawing would stay.
"""

import re
import time

EVERY = 30  # seconds between two lines of a bar
LONG = 5  # seconds; a bar that ends earlier leaves no line
CONTROL = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]")  # moves the cursor, erases, or colours
# A drawing of tqdm, `train:  42%|####  | 21/50 [00:10<00:14, 2.1step/s]`, or without a total `rows: 21 [00:10, ...]`.
BAR = re.compile(
    rb"(?P<name>.*?):?\s*(?:(?P<share>\d+)%\|.*?\|\s*|(?=\d))(?P<rest>[\d.]\S*(?: \w+)? \[(?P<time>[\d:]+)[<,].*)"
)


class PlainLines:
    """Turns output, as it comes, into plain lines."""

    def __init__(self) -> None:
        self.rest = b""  # of a line that has not ended
        self.drawn = False  # whether something was drawn over in this line
        self.printed: dict[bytes, float] = {}  # when each bar got its last line; infinity once it is full

    def add(self, chunk: bytes) -> bytes:
        """Return the lines that this output completes."""
        *parts, self.rest = re.split(rb"(\r\n|\n|\r(?!\Z))", self.rest + chunk)
        texts, ends = parts[::2], parts[1::2]
        return b"".join(self.line(text, end) for text, end in zip(texts, ends))

    def end(self) -> bytes:
        """Return what is left at the end of the output."""
        return self.line(self.rest, b"") if self.rest else b""

    def line(self, text: bytes, end: bytes) -> bytes:
        """Return a line as a file keeps it; nothing for most drawings of a bar."""
        plain = CONTROL.sub(b"", text).strip(b"\r")
        over, self.drawn = end == b"\r", self.drawn or end == b"\r" or plain != text
        if bar := BAR.fullmatch(plain.rstrip()):
            self.drawn = over
            return self.bar_line(bar)
        if over or (self.drawn and not plain.strip()):
            self.drawn = over
            return b""
        self.drawn = False
        return plain + end

    def bar_line(self, bar: "re.Match[bytes]") -> bytes:
        """Return a line of a bar if one is due: every half minute, and when it is full."""
        name, now = bar["name"].strip(), time.monotonic()
        full = len(set(bar["rest"].split(maxsplit=1)[0].split(b"/"))) == 1 and bar["share"] == b"100"
        before = self.printed.setdefault(name, now)
        if before == float("inf") and not full:  # another bar of the same name
            before = self.printed[name] = now
        if seconds(bar["time"]) < LONG or before == float("inf") or (not full and now - before < EVERY):
            return b""
        self.printed[name] = float("inf") if full else now
        share = bar["share"] + b"% " if bar["share"] else b""
        return (name + b": " if name else b"") + share + bar["rest"].rstrip() + b"\n"


def seconds(clock: bytes) -> int:
    """Return the seconds of a time such as 1:02:03."""
    total = 0
    for part in clock.split(b":"):
        total = total * 60 + int(part)
    return total
