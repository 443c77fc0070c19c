"""Encode: lengths, truncation, parts that a template leaves out, and stop tokens in the loss."""

import shutil
from collections.abc import Callable
from pathlib import Path

import accounting
from preparing import Contents, Prepare, alpaca, counts, kept, length, lines, manifest, read, rows, talk

from stages.common import chat, tokens
from stages.preprocess import __main__ as stage


def test_lengths_are_counted_in_tokens(prepare: Prepare) -> None:
    folder = prepare({"rows.jsonl": lines([alpaca(f"{n:03d}", "a" * n) for n in range(1, 101)])})
    found = counts(folder)
    around = length("123", "")
    assert found["tokens"] == {"p50": around + 50, "p95": around + 95, "p99": around + 99, "max": around + 100}
    total = sum(around + n for n in range(1, 101))
    assert found["supervised_share"] == round(sum(n + 1 for n in range(1, 101)) / total, 6)
    header, *classes = (folder / "metrics" / "lengths.csv").read_text(encoding="utf-8").splitlines()
    starts, sizes = zip(*(map(int, line.split(",")) for line in classes), strict=True)
    width = starts[1]
    assert (header, starts) == ("tokens,rows", tuple(range(0, found["tokens"]["max"] + 1, width)))
    lengths = [around + n for n in range(1, 101)]
    assert list(sizes) == [sum(start <= size < start + width for size in lengths) for start in starts]


def test_a_row_with_exactly_max_length_tokens_is_kept(prepare: Prepare) -> None:
    contents: Contents = {"rows.jsonl": lines([*rows(60), alpaca("é" * 20, "a" * 40)])}
    longest = length("é" * 20, "a" * 40)
    changes = {"preprocess.over_length": "error"}
    assert counts(prepare(contents, changes | {"preprocess.max_length": longest}))["tokens"]["max"] == longest
    assert counts(prepare(contents, {"preprocess.max_length": longest - 1}))["rows_dropped"] == {"over_length": 1}


def test_truncation_keeps_the_full_answers_that_fit(prepare: Prepare, byte_base: Path) -> None:
    turns = ["one?", "1", "two?", "2" * 20, "three?", "3" * 20]
    two, one = length(*turns[:4]), length(*turns[:2])
    for limit, fit in {length(*turns): 6, length(*turns) - 1: 4, two: 4, two - 1: 2, one: 2}.items():
        contents = {"a.jsonl": lines([*(talk(f"{n:02}", "y") for n in range(20)), talk(*turns)])}
        changes = {"preprocess.over_length": "truncate", "preprocess.max_length": limit}
        folder = prepare(contents, changes)
        assert [len(value["messages"]) for value in kept(folder) if value["messages"][0]["content"] == "one?"] == [
            fit
        ]
        found = counts(folder)
        assert (found["rows_truncated"], found["rows_dropped"]) == (int(fit < 6), {})
        assert found["tokens_truncated"] == length(*turns) - length(*turns[:fit])
        accounting.check(found, folder / "data" / "raw", folder / "data" / "prepared", byte_base)


def test_a_row_whose_first_answer_does_not_fit_is_dropped(prepare: Prepare) -> None:
    turns = ["one?", "1" * 50, "two?", "2"]
    changes = {"preprocess.over_length": "truncate", "preprocess.max_length": 60, "preprocess.max_dropped_share": 0.1}
    folder = prepare({"a.jsonl": lines([*(talk(f"{n:02}", "y") for n in range(20)), talk(*turns)])}, changes)
    found = counts(folder)
    assert (found["rows_dropped"], found["rows_truncated"], found["tokens_truncated"]) == ({"over_length": 1}, 0, 0)
    entry = manifest(folder)[-1]
    assert (entry["tokens"], entry["truncated"]) == (length(*turns), False)


def test_truncation_never_ends_in_a_tool_call(prepare: Prepare) -> None:
    call = {"function": {"name": "now", "arguments": {}}}
    messages = [
        *talk("a?", "b", "c?")["messages"],
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "12:00" * 40},
        {"role": "assistant", "content": "d"},
    ]
    changes = {"preprocess.over_length": "truncate", "preprocess.max_length": 180}
    folder = prepare(
        {"a.jsonl": lines([{"messages": messages}, *(talk(f"{n}?", "yes") for n in range(20))])}, changes
    )
    found = counts(folder)
    assert (found["rows_truncated"], found["rows_dropped"]) == (1, {})
    assert talk("a?", "b") in kept(folder)


def test_truncated_text_has_max_length_tokens(prepare: Prepare) -> None:
    texts = ["x" * 40, "y" * 50, "z" * 49, "é" * 30]
    changes = {"preprocess.over_length": "truncate", "preprocess.max_length": 50, "preprocess.val_fraction": 0.5}
    folder = prepare({"a.txt": "\n".join([*texts, *(f"{n}" for n in range(20))])}, changes)
    entries = manifest(folder)[:4]
    assert [(entry["tokens"], entry["truncated"]) for entry in entries] == [
        (41, False),
        (50, True),
        (50, False),
        (50, True),
    ]
    assert [read(folder, entry["outcome"])[entry["position"]]["text"] for entry in entries] == [*texts[:3], "é" * 25]
    stored = [tokens.read(folder / "data" / "prepared" / f"{e['outcome']}.arrow")[e["position"]] for e in entries]
    assert [257 in ids for ids, _ in stored] == [True, False, True, False]  # <end>
    assert all(set(mask) == {1} for _, mask in stored)


def test_rows_that_are_equal_after_truncation_are_duplicates(prepare: Prepare) -> None:
    start = " ".join(f"{7919 * place:x}" for place in range(60))
    texts = [f"{start}{end * 300}" for end in ("the one", "another", "a third")]
    changes = {"preprocess.over_length": "truncate", "preprocess.max_length": 200, "preprocess.val_fraction": 0.5}
    folder = prepare({"a.txt": "\n".join([*texts, *(f"{n}" for n in range(20))])}, changes)
    assert counts(folder)["rows_dropped"] == {"duplicate": 2}


def test_rows_without_supervised_tokens_are_dropped_and_counted(
    write_raw: Prepare, fail: Callable[..., str], byte_base: Path
) -> None:
    folder = write_raw({"rows.jsonl": lines(rows(20))})
    base = shutil.copytree(byte_base, folder / "base")
    template = base / "chat_template.jinja"
    for text, reason in (
        ("{{ messages[0].content }}yes{% generation %}{% endgeneration %}", "no_supervised_token"),
        ("{% generation %}{{ messages[1].content }}{% endgeneration %}", "lost_by_template"),
        ("{{ raise_exception('no') }}{% generation %}{% endgeneration %}", "template_refused"),
        ("{{ messages[0].none.at_all }}{% generation %}{% endgeneration %}", "template_refused"),
    ):
        template.write_text(text, encoding="utf-8")
        assert f"({reason} 20 such as rows.jsonl:1" in fail(stage.main, "--base", base)


def test_a_tool_answer_that_the_template_writes_as_json_is_not_lost(
    write_raw: Prepare, succeed: Callable[..., str], byte_base: Path
) -> None:
    call = {"role": "assistant", "content": "", "tool_calls": [{"name": "now", "arguments": {}}]}
    answer = {"role": "tool", "content": '{"time": "12:00\nü"}'}
    values = [
        {
            "messages": [
                {"role": "user", "content": f"{7919 * n:x} " * 20},
                call,
                answer,
                {"role": "assistant", "content": "Noon."},
            ]
        }
        for n in range(20)
    ]
    folder = write_raw({"rows.jsonl": lines(values)})
    base = shutil.copytree(byte_base, folder / "base")
    template = base / "chat_template.jinja"
    text = template.read_text(encoding="utf-8")
    template.write_text(
        text.replace("{{ message.content + '<end>' }}", "{{ message.content | tojson + '<end>' }}"), encoding="utf-8"
    )
    succeed(stage.main, "--base", base)
    assert counts(folder)["rows_dropped"] == {}


def test_rows_without_a_supervised_stop_token_are_counted(
    write_raw: Prepare, succeed: Callable[..., str], byte_base: Path
) -> None:
    folder = write_raw({"rows.jsonl": lines(rows(20))})
    base = shutil.copytree(byte_base, folder / "base")
    for answer, without in (
        ("{% generation %}{{ messages[1].content }}{% endgeneration %}<end>", 20),
        ("{% generation %}{{ messages[1].content }}<end>{% endgeneration %}", 0),
        # TRL's templates have a newline after the stop token in their block.
        ("{% generation %}{{ messages[1].content + '<end>\n' }}{% endgeneration %}", 0),
        ("{% generation %}{{ messages[1].content + '<end>.' }}{% endgeneration %}", 20),
    ):
        answered = f"{{% if not add_generation_prompt %}}{answer}{{% endif %}}"
        (base / "chat_template.jinja").write_text("{{ messages[0].content }}" + answered, encoding="utf-8")
        said = succeed(stage.main, "--base", base)
        assert counts(folder)["rows_without_supervised_stop"] == without, answer
        assert ("WARNING: 20 rows have an answer in the loss that does not end in a stop token" in said) == (
            without > 0
        )


def test_every_row_of_the_built_in_model_has_its_stop_token_in_the_loss(
    workspace: Path, base: Path, prepared: Path
) -> None:
    found = counts(workspace)
    assert found["rows_read"] == found["rows_kept"] == 50
    assert found["rows_without_supervised_stop"] == 0
    accounting.check(found, workspace / "data" / "raw", prepared, base)
    chat_tokenizer = chat.load(base)
    for ids, mask in tokens.read(prepared / "train.arrow"):
        assert [token for token, supervised in zip(ids, mask, strict=True) if supervised][
            -1
        ] in chat_tokenizer.stop_ids
