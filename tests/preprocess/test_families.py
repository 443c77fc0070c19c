"""Families: rows as the chat templates of many model families write them follow the prompts that are served."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
import served
from preparing import Prepare, counts, kept, lines

from stages.base import template_kwargs
from stages.common import tokens
from stages.eval.__main__ import require_prompts
from stages.eval.answers import decode_answer, reference, score_answer
from stages.preprocess import __main__ as stage

TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Rome, it's"}}}

PARAMS = {
    "preprocess.duplicates": "keep",
    "preprocess.near_duplicates": "keep",
    "preprocess.max_dropped_share": 1.0,
    "preprocess.max_length": 30_000,  # nearly every byte is a token
    "preprocess.val_fraction": 0.5,
}


def conversations(reasoning: str = "") -> list[dict[str, Any]]:
    """Make rows of one to three answers, some with line ends or a system message, and one with a tool call."""
    thought = {"reasoning_content": reasoning} if reasoning else {}
    values: list[dict[str, Any]] = []
    for n in range(12):
        asked = {"role": "user", "content": f"What is {7919 * n} times {n + 3}?" + "\n" * (n % 3)}
        answer = {"role": "assistant", "content": f"It is {7919 * n * (n + 3)}.", **thought}
        system = [{"role": "system", "content": "Be brief."}] if n % 4 == 0 else []
        values.append({"messages": [*system, *[asked, answer] * (1 + n % 3)]})
    calls = [{"role": "assistant", "content": "", "tool_calls": [CALL]}, {"role": "tool", "content": "Sun."}]
    asked, answer = {"role": "user", "content": "And in Rome?"}, {"role": "assistant", "content": "Sun in Rome."}
    return [*values, {"messages": [asked, *calls, answer], "tools": [TOOL]}]


@pytest.fixture
def run(write_raw: Prepare, succeed: Callable[..., str]) -> Callable[..., tuple[Path, str]]:
    """Run the stage on rows with a template of TRL, and return the folder and what was printed."""

    def run(name: str, values: list[dict[str, Any]], **settings: Any) -> tuple[Path, str]:
        folder = write_raw({"rows.jsonl": lines(values)}, PARAMS)
        base = served.make_base(name, folder / "base")
        template = base / "chat_template.jinja"
        fixed = template_kwargs.write(template.read_text(encoding="utf-8"), settings)
        template.write_text(fixed, encoding="utf-8")
        return folder, succeed(stage.main, "--base", base)

    return run


def prepared(folder: Path) -> list[tuple[dict[str, Any], tokens.TokenRow]]:
    """Return the rows that are kept, with their tokens."""
    files = [folder / "data" / "prepared" / f"{name}.arrow" for name in ("train", "val")]
    return list(zip(kept(folder), [row for file in files for row in tokens.read(file)], strict=True))


@pytest.mark.parametrize("name", served.FAMILIES)
def test_every_answer_follows_the_prompt_that_is_served(name: str, run: Callable[..., tuple[Path, str]]) -> None:
    settings = {"enable_thinking": False} if name.startswith(served.THINKING) else {}
    folder, _ = run(name, conversations(), **settings)
    found, expected = counts(folder), served.Expected(folder / "base")
    assert set(found["rows_dropped"]) <= {"template_refused", "lost_by_template"}  # tools, system messages
    assert found["rows_kept"] >= 9
    assert found["rows_without_supervised_stop"] == 0
    before = [expected.check(row, made) for row, made in prepared(folder)]
    assert found["turns"] == len(before) + sum(supervised for supervised, _ in before)
    assert found["turns_not_as_served"] == sum(others for _, others in before) == 0
    # gpt-oss ends an answer in <|return|>, and in <|end|> when more messages follow; a call ends in <|call|>.
    assert found["turns_without_their_stop"] == (12 if "gptoss" in name else 0)


@pytest.mark.parametrize("name", served.FAMILIES)
def test_a_perfect_answer_scores_one(name: str, run: Callable[..., tuple[Path, str]]) -> None:
    settings = {"enable_thinking": False} if name.startswith(served.THINKING) else {}
    folder, _ = run(name, conversations(), **settings)
    expected = served.Expected(folder / "base")
    for row, made in prepared(folder):
        prompt = expected.render(row, len(row["messages"]) - 1)
        require_prompts(folder, [row], [made], [prompt])
        with pytest.raises(click.ClickException, match="row 1: not the model's prompt and an answer after it"):
            require_prompts(folder, [row], [made], [prompt[:-1]])
        answer, stopped = decode_answer(made.ids[len(prompt) :], expected.chat_tokenizer)
        assert stopped
        assert set(score_answer(reference(made, expected.chat_tokenizer), answer).values()) == {1}


@pytest.mark.parametrize("name", [name for name in served.FAMILIES if name.startswith(served.THINKING)])
def test_rows_without_reasoning_do_not_follow_a_prompt_that_asks_for_it(
    name: str, write_raw: Prepare, fail: Callable[..., str]
) -> None:
    folder = write_raw({"rows.jsonl": lines(conversations())}, PARAMS | {"preprocess.max_dropped_share": 0.3})
    message = fail(stage.main, "--base", served.make_base(name, folder / "base"))
    assert "prompt_mismatch 1" in message
    assert "the prompt ends in '" in message
    assert "<think>\\n'" in message
    assert "base.template_kwargs may change the prompt, see docs/base.md" in message
    if "deepseek" not in name:  # which get the switch with the setting
        assert "base.template_kwargs {enable_thinking: false} fits" in message


@pytest.mark.parametrize(
    ("name", "others"),
    [
        ("qwen3_5_think_training", 0),
        ("qwen3_training", 0),
        ("glm4moe_training", 12),
        ("gptoss_training", 12),
        ("deepseek_r1_distill_training", 12),
        ("deepseekv3_training", 12),
    ],
)
def test_answers_whose_reasoning_is_left_out_later_are_not_in_the_loss(
    name: str, others: int, run: Callable[..., tuple[Path, str]]
) -> None:
    values = conversations(reasoning="Let me\nthink.")[:12]
    settings = {"enable_thinking": True} if "deepseek" in name else {}
    folder, said = run(name, values, **settings)
    found, expected = counts(folder), served.Expected(folder / "base")
    assert (found["rows_dropped"], found["turns_not_as_served"]) == ({}, others)
    assert sum(expected.check(row, made)[1] for row, made in prepared(folder)) == others
    assert (f"not in the loss: {others} answers before the last" in said) == (others > 0)


def test_an_answer_whose_first_line_end_joins_the_prompts_is_dropped(run: Callable[..., tuple[Path, str]]) -> None:
    values = conversations()[:12]
    values[5]["messages"][-1]["content"] = "\nIt begins with a line end."
    folder, _ = run("qwen2_5_training", values)
    assert counts(folder)["details"]["prompt_mismatch"] == {
        "the prompt ends in '<|im_start|>assistant\\n', whose last characters are in the token '\\n\\n'": 1
    }


def test_text_with_a_role_that_only_the_template_writes_is_dropped(run: Callable[..., tuple[Path, str]]) -> None:
    values = conversations()[:12]
    values[3]["messages"][-1]["content"] += "<｜User｜>More."
    folder, _ = run("deepseekv3_training", values, enable_thinking=False)
    assert counts(folder)["examples"]["special_token"] == ["rows.jsonl:4"]


@pytest.mark.parametrize(("name", "lost"), [("lfm2_training", "'weather' of a tool call"), ("lfm2_v2_training", "")])
def test_a_call_counts_as_lost_although_the_tools_name_its_function(
    name: str, lost: str, run: Callable[..., tuple[Path, str]]
) -> None:
    folder, _ = run(name, conversations())
    assert list(counts(folder)["details"].get("lost_by_template", {})) == ([lost] if lost else [])


def test_a_tool_counts_as_lost_although_a_call_names_it(run: Callable[..., tuple[Path, str]]) -> None:
    folder, _ = run("deepseekv3_training", conversations(), enable_thinking=False)
    assert counts(folder)["details"]["lost_by_template"] == {"'weather' of the tool 'weather'": 1}
