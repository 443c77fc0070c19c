"""`make show-tokens`: its output agrees with the token files and with the tokenizer."""

import json
import os
import pty
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet
from stage_runs import ROOT, succeed_in, write_params
from tokenizers import Tokenizer

from stages.common import tokens
from tools import show_tokens

TALK = [
    {"role": "user", "content": "Name the party."},
    {"role": "assistant", "content": "🎉 fête\n\n漢字\tyes"},
    {"role": "user", "content": "zero\u200bwidth and \u202e and \u2028 here?"},
    {"role": "assistant", "content": "No."},
]
QUESTIONS = [
    f"What follows {word}?" for word in ("ax", "bear", "cup", "dog", "elk", "fig", "goat", "hat", "ink", "jam")
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, base: Path) -> Path:
    """data/prepared as the real stage writes it, of rows in three formats."""
    from stages.preprocess import __main__ as preprocess

    folder = tmp_path_factory.mktemp("finished")
    changes = {"calibration_rows": 2, "max_dropped_share": 0.9, "near_duplicates": "keep", "val_fraction": 0.4}
    write_params(folder, {f"preprocess.{key}": value for key, value in changes.items()})
    shutil.copytree(base, folder / "models" / "base")
    raw = folder / "data" / "raw"
    raw.mkdir(parents=True)
    rows: dict[str, list[dict[str, Any]]] = {
        "asked.jsonl": [{"instruction": question, "output": "That."} for question in [*QUESTIONS, QUESTIONS[0]]],
        "talk.jsonl": [{"messages": TALK}],
    }
    for name, lines in rows.items():
        (raw / name).write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    (raw / "wiki.txt").write_text("A line of text.\n", encoding="utf-8")
    succeed_in(folder, preprocess.main)
    return folder


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    """A copy that a test may break; `succeed` and `fail` run in it."""
    return shutil.copytree(finished, tmp_path, dirs_exist_ok=True)


def tokenizer(folder: Path) -> Tokenizer:
    return Tokenizer.from_file(str(folder / "models" / "base" / "tokenizer.json"))


def records(folder: Path, **wanted: Any) -> list[dict[str, Any]]:
    found = parquet.read_table(folder / "data/prepared/manifest.parquet").to_pylist()
    return [record for record in found if wanted.items() <= record.items()]


def blocks(output: str) -> dict[str, str]:
    """Split the output into header lines and the tokens under each."""
    legend, *rows = output.removesuffix("\n").split("\n\n")
    assert legend == show_tokens.LEGEND
    return dict(row.split("\n", 1) for row in rows)


def plain(shown: str) -> str:
    """Remove the marks: the text is left."""
    text = re.sub(r"[⟦⟧·]", "", shown.replace("⏎", ""))
    return re.sub(r"\\(t|u[0-9a-f]{4})", lambda match: match[0].encode().decode("unicode_escape"), text)


def row_id(record: dict[str, Any]) -> str:
    return f"{record['file']}:{record['line']}"


def check_row(folder: Path, header: str, shown: str, row: tokens.TokenRow) -> None:
    """Compare a printed row with the ids and mask that are in the token file."""
    assert header.endswith(f": {len(row.ids)} tokens, {sum(row.mask)} of them supervised")
    chat_tokenizer = tokenizer(folder)
    assert plain(shown) == chat_tokenizer.decode(row.ids, skip_special_tokens=False).rstrip("\n")
    marked = "".join(re.findall(r"⟦(.*?)⟧", shown, flags=re.DOTALL))
    supervised = [token for token, flag in zip(row.ids, row.mask, strict=True) if flag]
    assert plain(marked) == chat_tokenizer.decode(supervised, skip_special_tokens=False)


@pytest.mark.parametrize("split", ["train", "val", "calibration"])
def test_rows_are_those_of_the_token_file(folder: Path, succeed: Callable[..., str], split: str) -> None:
    rows = tokens.read(folder / f"data/prepared/{split}.arrow")
    found = blocks(succeed(show_tokens.main, "--split", split, "--n", "99"))
    wanted = {"calibration": True} if split == "calibration" else {"outcome": split}
    assert [header.rpartition(": ")[0] for header in found] == [
        row_id(record) for record in records(folder, **wanted)
    ]
    assert len(found) == len(rows)
    for (header, shown), row in zip(found.items(), rows, strict=True):
        check_row(folder, header, shown, row)


def test_three_train_rows_are_shown_by_default(folder: Path, succeed: Callable[..., str]) -> None:
    first = [row_id(record) for record in records(folder, outcome="train")[:3]]
    assert [header.rpartition(": ")[0] for header in blocks(succeed(show_tokens.main))] == first
    assert len(blocks(succeed(show_tokens.main, "--n", "1", "--split", "val"))) == 1


def test_a_row_reads_well(folder: Path, succeed: Callable[..., str]) -> None:
    shown = succeed(show_tokens.main, "--row", "talk.jsonl:1")
    assert "⟦🎉· ·" in shown
    assert re.search(r"ê[^\n]*⏎·?\n⏎·\n漢·字·\\t·", shown)
    assert "<|im_end|>⟧⏎·\n<|im_start|>·user·⏎·\n" in shown
    assert "·\\u200b·" in shown
    assert "\\u202e" in shown
    assert "\\u2028" in shown
    assert shown.endswith("<|im_end|>⟧⏎\n")


def test_all_of_a_plain_text_is_supervised(folder: Path, succeed: Callable[..., str]) -> None:
    (_, shown), = blocks(succeed(show_tokens.main, "--row", "wiki.txt:1")).items()  # fmt: skip
    assert (shown[0], shown[-1]) == ("⟦", "⟧")
    assert plain(shown) == "A line of text.<|im_end|>"


def test_ids_stand_behind_their_text(folder: Path, succeed: Callable[..., str]) -> None:
    record = records(folder, file="talk.jsonl")[0]
    row = tokens.read(folder / f"data/prepared/{record['outcome']}.arrow")[record["position"]]
    shown = succeed(show_tokens.main, "--ids", "--row", "talk.jsonl:1")
    printed = [int(number) for group in re.findall(r"\(([\d ]+)\)", shown) for number in group.split()]
    assert printed == row.ids
    party = tokenizer(folder).encode("🎉").ids
    assert len(party) > 1
    assert f"⟦🎉({' '.join(map(str, party))})·" in shown


def test_a_calibration_row_is_found_in_its_file(folder: Path, succeed: Callable[..., str]) -> None:
    for place, record in enumerate(records(folder, calibration=True)):
        row = tokens.read(folder / "data/prepared/calibration.arrow")[place]
        printed = succeed(show_tokens.main, "--split", "calibration", "--row", row_id(record))
        check_row(folder, *next(iter(blocks(printed).items())), row)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--row", "asked.jsonl:11"], "asked.jsonl:11: dropped (duplicate), so it has no tokens; see `make trace "),
        (["--row", "asked.jsonl:12"], "asked.jsonl:12: no such row; asked.jsonl has rows "),
        (["--row", "ask.jsonl:1"], "ask.jsonl:1: no such file in the manifest; try asked.jsonl"),
        (["--row", "party"], "party: not a row id, such as skills.jsonl:17; `make trace` finds rows by words"),
    ],
)  # fmt: skip
def test_a_row_that_cannot_be_shown(
    folder: Path, fail: Callable[..., str], arguments: list[str], message: str
) -> None:
    assert fail(show_tokens.main, *arguments).startswith(message)


def test_a_row_of_another_split(folder: Path, fail: Callable[..., str]) -> None:
    row = row_id(records(folder, outcome="train", calibration=False)[0])
    for split in ("val", "calibration"):
        message = f"{row}: a train row, not in {split}; leave SPLIT out"
        assert fail(show_tokens.main, "--row", row, "--split", split) == message


@pytest.mark.parametrize(
    ("lost", "message"),
    [
        ("data/prepared", "data/prepared/manifest.parquet: no such file or folder; run `dvc repro` first"),
        ("models/base", "models/base/tokenizer.json: no such file or folder; run `dvc repro base` first"),
    ],
)
def test_without_data_or_tokenizer(folder: Path, fail: Callable[..., str], lost: str, message: str) -> None:
    shutil.rmtree(folder / lost)
    assert fail(show_tokens.main) == message


def test_token_files_of_another_run_are_refused(folder: Path, fail: Callable[..., str]) -> None:
    (folder / "data/prepared/val.arrow").replace(folder / "data/prepared/train.arrow")
    message = "data/prepared/train.arrow: of another run than data/prepared/manifest.parquet"
    assert fail(show_tokens.main, "--n", "99").startswith(message)


def on_a_terminal(folder: Path, **environment: str) -> str:
    """Run the tool with a terminal as its output."""
    reader, writer = pty.openpty()
    variables = {key: value for key, value in os.environ.items() if key != "NO_COLOR"}
    command = [sys.executable, "-m", "tools.show_tokens", "--n", "1"]
    subprocess.run(
        command, cwd=folder, stdout=writer, env=variables | {"PYTHONPATH": str(ROOT)} | environment, check=True
    )
    os.close(writer)
    printed = b""
    while True:
        try:
            printed += os.read(reader, 65536)
        except OSError:  # Linux's end of file
            return printed.decode().replace("\r\n", "\n")


@pytest.mark.slow
def test_colours_are_for_terminals_that_want_them(folder: Path, succeed: Callable[..., str]) -> None:
    piped = succeed(show_tokens.main, "--n", "1")
    assert "\x1b" not in piped
    assert on_a_terminal(folder, NO_COLOR="1") == piped
    coloured = on_a_terminal(folder)
    assert re.sub(r"\x1b\[\d+m", "", coloured) == piped
    green = "".join(re.findall(r"\x1b\[32m(.*?)\x1b\[0m", coloured, flags=re.DOTALL))
    assert green == re.findall(r"⟦.*?⟧", piped, flags=re.DOTALL)[-1]


@pytest.mark.slow
def test_neither_torch_nor_transformers_is_loaded(folder: Path) -> None:
    code = (
        "import sys; from tools import show_tokens; from tools.trace import __main__ as trace\n"
        "show_tokens.main([], standalone_mode=False); trace.main(['talk.jsonl:1'], standalone_mode=False)\n"
        "sys.exit([name for name in ('torch', 'transformers', 'datasets', 'dvc') if name in sys.modules] != [])"
    )
    subprocess.run([sys.executable, "-c", code], cwd=folder, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True)


@given(data=st.data())
def test_pieces_are_the_row_and_no_piece_mixes_masks(byte_base: Path, data: st.DataObject) -> None:
    chat_tokenizer = Tokenizer.from_file(str(byte_base / "tokenizer.json"))
    text = data.draw(st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\ufffd"), max_size=20))
    ids = chat_tokenizer.encode(text).ids
    whole = list(show_tokens.pieces(chat_tokenizer, ids, [0] * len(ids)))
    assert [piece.text for piece in whole] == list(text)  # a token is a byte, a piece a character
    mask = data.draw(st.lists(st.integers(0, 1), min_size=len(ids), max_size=len(ids)))
    pieces = list(show_tokens.pieces(chat_tokenizer, ids, mask))
    assert [token for piece in pieces for token in piece.ids] == ids
    assert [piece.supervised for piece in pieces for _ in piece.ids] == [flag == 1 for flag in mask]


def test_bytes_that_are_no_character_are_one_mark(byte_base: Path) -> None:
    chat_tokenizer = Tokenizer.from_file(str(byte_base / "tokenizer.json"))
    ids = chat_tokenizer.encode("a漢").ids
    cut = list(show_tokens.pieces(chat_tokenizer, ids[:-1], [0] * (len(ids) - 1)))
    assert [piece.text for piece in cut] == ["a", "\ufffd"]
    assert [len(piece.ids) for piece in cut] == [1, 2]
