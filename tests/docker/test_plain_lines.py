"""Plain lines: a log or a pipe gets words whole, and of a progress bar a line now and then."""

import io
import os
import pty
import subprocess
import sys
from pathlib import Path

import plain_lines
import pytest
from plain_lines import PlainLines

ROOT = Path(__file__).parents[2]
BARS = """
import sys
from tqdm import tqdm
from stages.common.progress import track
print("words")
for _ in tqdm(range(1000), desc="a library"): pass
bar = track(None, "ours", "row", 4, delay=0)
for place in range(4):
    bar.start_t -= 20  # as if a step took 20 seconds
    bar.update()
    bar.refresh()
    tqdm.write(f"table {place}")
bar.close()
print("\\nlast words")
"""


class Clock:
    """A clock that a test turns."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(plain_lines, "time", clock)
    return clock


def drawn(second: int, done: int, name: str = "train") -> bytes:
    """What tqdm draws, by its own hand."""
    from tqdm import tqdm

    text = tqdm.format_meter(done, 600, second, prefix=name, unit="step")
    return f"\r{text}".encode()


def test_words_stay_as_they_are_however_they_arrive() -> None:
    text = "words\n\n  50% of it | more [1]\r\nnaïve 北京\nno end".encode()
    for size in (1, 3, len(text)):
        lines = PlainLines()
        found = b"".join(lines.add(text[start : start + size]) for start in range(0, len(text), size))
        assert found + lines.end() == text


def test_a_bar_leaves_a_line_every_half_minute_and_at_its_end(clock: Clock) -> None:
    lines, found = PlainLines(), b""
    for second in range(0, 60):
        clock.now = float(second)
        found += lines.add(drawn(second, second * 10))
    found += lines.add(drawn(60, 599))  # tqdm rounds to 100 %
    found += lines.add(drawn(60, 600) + b"\n") + lines.end()
    assert [line.split()[:3] for line in found.decode().splitlines()] == [
        ["train:", "50%", "300/600"],
        ["train:", "100%", "600/600"],
    ]
    assert b"00:30<00:30" in found
    assert b"|" not in found


def test_a_bar_of_a_moment_leaves_nothing_and_the_words_after_it_stay(clock: Clock) -> None:
    lines = PlainLines()
    found = lines.add(drawn(0, 0) + drawn(2, 600) + b"\nblank line next\n\n" + b"\x1b[31mred\x1b[0m\n")
    assert found + lines.end() == b"blank line next\n\nred\n"


def test_two_bars_of_one_name_have_both_their_ends(clock: Clock) -> None:
    lines = PlainLines()
    found = lines.add((drawn(9, 0) + drawn(10, 600) + b"\n") * 2)
    assert found.count(b"100%") == 2


@pytest.mark.parametrize("kind", ["pipe", "terminal"])
@pytest.mark.slow
def test_real_bars_are_lines_in_a_pipe_and_bars_as_wide_as_the_terminal(tmp_path: Path, kind: str) -> None:
    environment = os.environ | {"DVC_ROOT": str(tmp_path), "RUNTIME": "local", "VENV": sys.prefix, "RUN": "one"}
    command: list[Path | str] = [ROOT / "docker" / "run", "--name", "bars", "python", "-c", BARS]
    if kind == "pipe":
        shown = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, check=True).stdout.decode()
    else:
        shown = in_terminal(command, environment, columns=60)
    log = (tmp_path / "logs" / "one" / "bars" / "console.log").read_text(encoding="utf-8")
    assert "\r" not in log
    assert log.splitlines() == [
        *("words", "table 0", "table 1", "table 2"),
        next(line for line in log.splitlines() if line.startswith("ours: 100% 4/4 [01:20<00:00")),
        *("table 3", "", "last words"),
    ]
    if kind == "pipe":
        assert shown == log
    else:
        bars = [line for line in shown.replace("\n", "\r").split("\r") if "%|" in line]
        assert len(bars) > 4
        assert max(map(len, bars)) <= 60


def in_terminal(command: list[Path | str], environment: dict[str, str], columns: int) -> str:
    """Run a command on a terminal of this width, and return what it shows."""
    ours, theirs = pty.openpty()
    subprocess.run(["stty", "rows", "30", "cols", str(columns)], stdin=theirs, check=True)
    process = subprocess.Popen(command, env=environment, cwd=ROOT, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    shown = io.BytesIO()
    while True:
        try:
            shown.write(os.read(ours, 65536))
        except OSError:  # Linux's end of a terminal
            break
    os.close(ours)
    assert process.wait() == 0
    return shown.getvalue().decode()
