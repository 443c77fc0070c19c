"""The law of preprocess: each piece of text of a row is in its tokens, in a counted drop, or under a name not read.

Rows are made at random, with unknown keys, nested values, reasoning, tools, loss switches, odd roles, media, folders,
file types and encodings. Every text in them is a word that occurs nowhere else, so that the test can look for it.
Each loss switch is obeyed, or drops its row by name.
"""

import csv
import io
import itertools
import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from preparing import Prepare, counts, manifest
from pyarrow import parquet

from stages.common import chat, tokens
from stages.preprocess import __main__ as stage

pytestmark = pytest.mark.slow  # ten thousand rows
ROWS, RUNS = 500, 20
POLICIES = {
    "preprocess.near_duplicates": "keep",
    "preprocess.duplicates": "keep",
    "preprocess.near_duplicate_similarity": 1.0,
    "preprocess.val_fraction": 0.3,
    "preprocess.max_dropped_share": 1.0,
    "preprocess.max_length": 6000,
    "preprocess.empty_answer": "drop",
}
ODD = ["User", "GPT", "narrator", "Model", "function", "tool_response", "", None]
SWITCHES: list[dict[str, Any]] = [
    *(
        {name: value}
        for name in ("weight", "loss_weight", "train", "loss", "training")
        for value in (0, 1, True, False)
    ),
    *({"weight": value} for value in (0.5, None, "0", "1")),
    *({"masked": value} for value in (True, False)),
]


class Maker:
    """Makes rows whose texts are all different words."""

    def __init__(self, seed: int) -> None:
        self.random, self.number = random.Random(seed), itertools.count(seed * 1_000_000)

    def word(self) -> str:
        return f"w{next(self.number)}x"

    def rarely(self, share: float = 0.15) -> bool:
        return self.random.random() < share

    def value(self, depth: int = 2) -> Any:
        kind = self.random.randrange(5 if depth else 3)
        if kind == 3:
            return [self.value(depth - 1) for _ in range(self.random.randrange(3))]
        if kind == 4:
            return {self.word(): self.value(depth - 1) for _ in range(self.random.randrange(3))}
        return self.random.choice([self.word(), self.word(), 5, 0.5, True, None])

    def content(self) -> Any:
        if not self.rarely():
            return f"{self.word()} {self.word()}"
        part: Any = self.random.choice(
            [
                {"type": "text", "text": self.word()},
                {"type": "text", "value": self.word(), "hint": self.word()},
                {"type": "thinking", "thinking": self.word()},
                {"type": "image_url", "image_url": {"url": self.word()}},
                {"type": "file", "file": self.word()},
                self.word(),
            ]
        )
        return self.random.choice([[part, self.word()], part, 7, None, ""])

    def call(self) -> Any:
        arguments: Any = {self.word(): self.value() for _ in range(self.random.randrange(3))}
        arguments = self.random.choice(
            [arguments, json.dumps(arguments), "", None, self.word()][: 3 + 2 * self.rarely()]
        )
        function = {"name": self.word(), "arguments": arguments} | (
            {self.word(): self.value()} if self.rarely() else {}
        )
        return self.random.choice([function, {"id": self.word(), "type": "function", "function": function}])

    def turn(self, role: Any, role_key: str, content_key: str) -> dict[str, Any]:
        turn = {role_key: role, content_key: self.content()}
        if self.rarely():
            turn[self.random.choice(["reasoning_content", "reasoning", "thinking"])] = self.word()
        if self.rarely():
            turn[self.word()] = self.value()
        if self.rarely():
            turn |= self.random.choice(SWITCHES)
        if self.rarely(0.1):
            turn["name"] = self.word()
        if self.rarely(0.1):
            turn[self.random.choice(["value", "content", "from", "role"])] = self.word()
        return turn

    def turns(self, names: dict[str, str], role_key: str, content_key: str) -> list[Any]:
        turns = []
        for _ in range(self.random.randrange(1, 4)):
            turns.append(self.turn(names["user"], role_key, content_key))
            answer = self.turn(names["assistant"], role_key, content_key)
            if self.rarely(0.3):
                if self.rarely(0.5):
                    answer["tool_calls"] = [self.call() for _ in range(self.random.randrange(1, 3))]
                else:
                    answer["function_call"] = self.call()
                turns += [answer, self.turn("tool", role_key, content_key)]
                answer = self.turn(names["assistant"], role_key, content_key)
            turns.append(answer)
            if self.rarely(0.1):
                call = self.turn(self.random.choice(["tool_call", "function_call"]), role_key, content_key)
                turns += [
                    call | {content_key: json.dumps(self.call())},
                    self.turn("observation", role_key, content_key),
                ]
                turns.append(self.turn(names["assistant"], role_key, content_key))
        if self.rarely(0.1):
            self.random.choice(turns)[role_key] = self.random.choice(ODD)
        return turns

    def tools(self) -> Any:
        schema = {
            "type": "object",
            "properties": {self.word(): {"type": "string", "description": self.word()}, self.word(): None},
            self.word(): self.value(),
        }
        tools = [{"name": self.word(), "description": self.word(), "parameters": schema}]
        return self.random.choice([tools, json.dumps(tools)])

    def row(self, name: str) -> dict[str, Any]:
        if name == "messages":
            row: dict[str, Any] = {
                "messages": self.turns({"user": "user", "assistant": "assistant"}, "role", "content")
            }
        elif name == "sharegpt":
            row = {"conversations": self.turns({"user": "human", "assistant": "gpt"}, "from", "value")}
        elif name == "alpaca":
            row = {
                "instruction": self.word(),
                "input": self.random.choice([self.word(), "", None]),
                "output": self.word(),
            }
            if self.rarely():
                row["history"] = [[self.word(), self.word()], [self.word()]][: self.random.randrange(1, 3)]
        elif name == "dolly":
            row = {"instruction": self.word(), "context": self.word(), "response": self.word()}
        elif name == "qa":
            row = {"question": self.word(), "answer": self.random.choice([self.word(), 5, self.word()])}
        else:
            row = {"text": f"{self.word()} {self.word()}"}
        for column in ("system_prompt", "tools", "label", "images", "category"):
            if self.rarely(0.1):
                row[column] = (
                    self.tools() if column == "tools" else self.value(1) if column == "label" else self.word()
                )
        if self.rarely(0.1):
            row[self.word()] = self.value()
        return row


def words_in(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """List the words of a row with the keys that lead to each. JSON text is looked into."""
    if isinstance(value, str) and value.strip()[:1] in ("[", "{"):
        value = json.loads(value)
    if isinstance(value, dict):
        for key, part in value.items():
            if key[:1] == "w" and key[-1:] == "x" and key[1:-1].isdigit() and part not in (None, "", [], {}):
                yield key, (*path, key)
            yield from words_in(part, (*path, key))
    elif isinstance(value, list):
        for place, part in enumerate(value):
            yield from words_in(part, (*path, place))
    elif isinstance(value, str):
        yield from ((word, path) for word in value.split() if word[0] == "w" and word[-1] == "x")


def is_named(path: tuple[Any, ...], word: str, unread: dict[str, int]) -> bool:
    keys = [key for key in (*path, word) if isinstance(key, str)]
    names = {keys[0], *(f"messages.{inner}{key}" for key in keys for inner in ("", "content.", "tool_calls."))}
    return bool(names & unread.keys())


def is_off(turn: dict[str, Any]) -> bool:
    """Whether a turn that was not dropped is switched off."""
    on = {1: True, 0: False, "1": True, "0": False, None: True}
    return any(
        on[turn[key]] == (key == "masked") for key in ("weight", "loss_weight", "train", "loss", "training", "masked")
        if turn.get(key) is not None
    )  # fmt: skip


def written(kind: str, rows: list[dict[str, Any]]) -> bytes:
    if kind == "json":
        return json.dumps(rows, indent=2).encode()
    if kind == "document.json":
        return json.dumps({"data": rows}, indent=1).encode()
    if kind in ("csv", "semicolon.csv", "parquet"):
        names = list(dict.fromkeys(name for row in rows for name in row))
        cells = [
            [
                "" if row.get(name) is None else row[name] if isinstance(row[name], str) else json.dumps(row[name])
                for name in names
            ]
            for row in rows
        ]
        if kind == "parquet":
            sink = io.BytesIO()
            parquet.write_table(pa.table({name: [line[n] for line in cells] for n, name in enumerate(names)}), sink)
            return sink.getvalue()
        buffer = io.StringIO(newline="")
        csv.writer(buffer, delimiter=";" if kind == "semicolon.csv" else ",").writerows([names, *cells])
        return buffer.getvalue().encode()
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


@pytest.fixture(scope="module")
def bases(byte_base: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A base whose template writes everything, and one that leaves out reasoning."""
    rich = shutil.copytree(byte_base, tmp_path_factory.mktemp("rich") / "base")
    template = (rich / "chat_template.jinja").read_text(encoding="utf-8")
    answer = "{{ message.content }}{% if message.tool"
    assert answer in template
    full = template.replace(answer, f"{{{{ message.reasoning_content }}}};{answer}")
    (rich / "chat_template.jinja").write_text(full, encoding="utf-8")
    return [rich, byte_base]


@pytest.mark.parametrize("run", range(RUNS))
def test_no_text_and_no_switch_is_lost_in_silence(
    run: int, write_raw: Prepare, succeed: Callable[..., str], bases: list[Path]
) -> None:
    maker, contents, made = Maker(run), {}, {}
    names = ("messages", "sharegpt", "alpaca", "dolly", "qa", "text")
    kinds = ("jsonl", "json", "parquet", "csv", "document.json", "semicolon.csv")
    for name, kind in zip(names, kinds[run % 6 :] + kinds[: run % 6], strict=True):
        rows = [maker.row(name) for _ in range(-(-ROWS // len(names)))]
        rows[0] = {key: value for key, value in rows[0].items() if not isinstance(value, int | None)} | {
            "alpaca": {"output": maker.word()}, "qa": {"answer": maker.word()}
        }.get(name, {})  # fmt: skip
        encoding = ("utf-8", "utf-16", "cp1252")[run % 3] if kind != "parquet" else "utf-8"
        file = f"{'deep/er/' if maker.rarely(0.5) else ''}{name}-{encoding}.{kind}"
        data = written(kind, rows)
        contents[file] = data if kind == "parquet" else data.decode().encode(encoding)
        made[file] = rows
    named = {"preprocess.files": {"*cp1252*": {"encoding": "windows-1252"}}} if run % 3 == 2 else {}
    folder = write_raw(contents, POLICIES | named)
    base = bases[run % 2]
    succeed(stage.main, "--base", base)
    found, entries = counts(folder), manifest(folder)
    assert found["rows_read"] == len(entries) == sum(map(len, made.values())) >= ROWS
    tokenizer = chat.load(base).tokenizer
    prepared = {
        split: list(tokens.read(folder / "data" / "prepared" / f"{split}.arrow")) for split in ("train", "val")
    }
    places = {file: iter(rows) for file, rows in made.items()}
    kept = 0
    for entry in entries:
        row, unread = next(places[entry["file"]]), found["files"][entry["file"]]["unread"]
        if entry["outcome"] == "dropped":
            continue
        kept += 1
        ids, mask = prepared[entry["outcome"]][entry["position"]]
        text = tokenizer.decode(ids)
        supervised = tokenizer.decode([one for one, on in zip(ids, mask, strict=True) if on])
        for word, path in words_in(row):
            assert word in text or is_named(path, word, unread), (word, path, row, unread)
        for turn in row.get("messages", row.get("conversations", [])):
            content = turn.get("content", turn.get("value"))
            role = str(turn.get("role", turn.get("from"))).lower()
            if role in ("assistant", "gpt", "model") and isinstance(content, str):
                for word, _ in words_in(content):
                    assert (word in supervised) != is_off(turn), (turn, supervised)
    assert kept > ROWS / 5
    assert sum(found["rows_dropped"].values()) == len(entries) - kept
