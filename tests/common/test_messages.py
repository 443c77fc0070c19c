"""Messages of stages/common: file, problem and next step, asserted here only (those of params: test_params.py)."""

import shutil
from collections.abc import Callable
from pathlib import Path

import click
import pyarrow as pa
import pytest
from conversations import ANSWERS, CONVERSATIONS, to_row

from stages.common import chat, files, model_folder, tokens

NO_ROWS = "no rows; more data or another preprocess.val_fraction is needed"
NOT_TOKENS = "not a token file of the preprocess stage; run `dvc repro preprocess`"


def message(call: Callable[[], object], folder: Path) -> str:
    """Return the message of a call that must fail, with FOLDER for the folder's path."""
    with pytest.raises(click.ClickException) as raised:
        call()
    return raised.value.message.replace(str(folder), "FOLDER")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"chat_template.jinja": ""}, "FOLDER: no chat template (chat_template.jinja); set base.chat_template"),
        (
            {"chat_template.jinja": "{{ messages[0].content }}"},
            "FOLDER/chat_template.jinja: no {% generation %} markers around the assistant's answer, so the loss mask "
            "would be empty; set base.chat_template to a template with markers",
        ),
        (
            {"chat_template.jinja": "{% for m in messages %}\n{% generation %}{{ m.content }}{% endgeneration %}"},
            "FOLDER/chat_template.jinja:2: Unexpected end of template. Jinja was looking for the following tags: "
            "'endfor' or 'else'. The innermost block that needs to be closed is 'for'.; fix the template",
        ),
        (
            {"generation_config.json": None, "tokenizer_config.json": "{}"},
            "FOLDER: no stop token; set eos_token_id in FOLDER/generation_config.json",
        ),
        ({"tokenizer.json": None}, "FOLDER/tokenizer.json: no such file; run `dvc repro base` first"),
    ],
)
def test_a_folder_without_a_usable_chat_tokenizer(
    base: Path, tmp_path: Path, changes: dict[str, str | None], expected: str
) -> None:
    folder = shutil.copytree(base, tmp_path / "base")
    for name, text in changes.items():
        if text is None:
            (folder / name).unlink()
        else:
            (folder / name).write_text(text, encoding="utf-8")
    assert message(lambda: chat.load(folder), folder) == expected


def test_a_row_that_the_template_does_not_support(base: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(base, tmp_path / "base")
    template = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role here') }}{% endif %}"
    (folder / "chat_template.jinja").write_text(template + ANSWERS, encoding="utf-8")
    chat_tokenizer = chat.load(folder)
    assert message(lambda: chat.encode(chat_tokenizer, [to_row(CONVERSATIONS[1])]), folder) == (
        "chat template: no system role here (in the row that starts 'Be brief.')"
    )


def test_a_model_folder_that_is_not_safe_to_load(tmp_path: Path) -> None:
    folder = tmp_path / "model"

    def check() -> None:
        model_folder.require(folder, "dvc repro base")

    assert message(check, folder) == "FOLDER: no such file or folder; run `dvc repro base` first"
    folder.mkdir()
    (folder / "weights.bin").write_bytes(b"")
    assert message(check, folder) == (
        "FOLDER/weights.bin: unsupported file type in a model folder (a pickle or code can run anything); delete it, "
        "or run `dvc repro base`"
    )
    (folder / "weights.bin").rename(tmp_path / "config.json")
    (folder / "config.json").symlink_to(tmp_path / "config.json")
    assert message(check, folder) == (
        f"FOLDER/config.json: links to {tmp_path}/config.json, outside the folder; replace the link with the file, "
        "or run `dvc repro base`"
    )


def test_files_that_cannot_be_read_or_written(tmp_path: Path) -> None:
    path = tmp_path / "file"
    assert message(lambda: files.read_json(path), tmp_path) == (
        "FOLDER/file: no such file or folder; run `dvc repro` first"
    )
    assert message(lambda: files.read_rows(path), tmp_path) == (
        "FOLDER/file: no such file or folder; run `dvc repro` first"
    )
    path.write_text("")
    assert message(lambda: files.read_rows(path), tmp_path) == f"FOLDER/file: {NO_ROWS}"
    assert message(lambda: files.write_texts({tmp_path: ""}), tmp_path) == (
        "FOLDER: cannot be written (Is a directory); check the folder's owner and free space"
    )


def test_token_files_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.arrow"
    assert message(lambda: tokens.read(path), tmp_path) == (
        "FOLDER/rows.arrow: no such file or folder; run `dvc repro` first"
    )
    path.write_bytes(b"\xff" * 100)
    assert message(lambda: tokens.read(path), tmp_path) == f"FOLDER/rows.arrow: {NOT_TOKENS}"
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, tokens.SCHEMA):
        pass
    assert message(lambda: tokens.read(path), tmp_path) == f"FOLDER/rows.arrow: {NO_ROWS}"
