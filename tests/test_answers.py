"""Answers: what a model says in a batch is what it says alone, and is compared with what the rows teach."""

import json
import shutil
from pathlib import Path

import pytest
from talking import Row, Score, Talker, answered, decoded, say

from stages.common import answers, chat, tokens

TOOL = {"type": "function", "function": {"name": "roll", "description": "Roll a die.", "parameters": {}}}
# Tools stand in the prompt, and a call is its function's name.
TOOL_TEMPLATE = """\
{%- for tool in tools or [] -%}{{- '<|im_start|>tool\n' + tool | tojson + '<|im_end|>\n' -}}{%- endfor -%}
{%- for message in messages -%}
{{- '<|im_start|>' + message.role + '\n' -}}
{%- if message.role == 'assistant' -%}
{%- generation -%}
{{- message.content -}}
{%- for call in message.tool_calls or [] -%}{{- call.function.name -}}{%- endfor -%}
{{- '<|im_end|>\n' -}}
{%- endgeneration -%}
{%- else -%}{{- message.content + '<|im_end|>\n' -}}{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}
"""


def test_the_models_of_these_tests_say_different_things(talker: Talker) -> None:
    assert len(set(talker.answers)) > 4
    assert 0 < sum(talker.stopped) < len(talker.stopped)


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_answers_equal_those_of_rows_taken_one_by_one(talker: Talker, score: Score, batch_size: int) -> None:
    rows = answered(talker, ["reference"] * 8)
    found, samples = score(talker.folder, rows, {"eval.batch_size": batch_size})
    assert [sample["answer"] for sample in samples] == talker.answers
    assert [sample["question"] for sample in samples] == talker.prompts
    assert {sample["reference"] for sample in samples} == {"reference"}
    assert found["stop_rate"] == round(sum(talker.stopped) / 8, 6)
    assert found["exact_match"] == 0


def test_a_match_is_the_whole_answer_but_for_blanks_around_it(talker: Talker, score: Score) -> None:
    references = [f" {answer}\n" for answer in talker.answers]
    for wrong in (0, 3, 5):
        references[wrong] = talker.answers[wrong] + "!"
    found, samples = score(talker.folder, answered(talker, references))
    assert [sample["exact_match"] for sample in samples] == [index not in (0, 3, 5) for index in range(8)]
    assert found["exact_match"] == 0.625
    assert found["rows"] == found["rows_answered"] == 8


def test_the_last_answer_of_several_is_asked_for(talker: Talker, score: Score) -> None:
    before = [{"role": "user", "content": "1 + 1"}, {"role": "assistant", "content": "2"}]
    prompts = [[*before, {"role": "user", "content": "And?"}], before]
    answers = decoded(talker, say(talker.folder, prompts))
    rows = [
        {"messages": [*prompt, {"role": "assistant", "content": answer}]}
        for prompt, answer in zip(prompts, answers, strict=True)
    ]
    found, samples = score(talker.folder, rows)
    assert [(sample["question"], sample["reference"]) for sample in samples] == [
        (prompt, answer.strip()) for prompt, answer in zip(prompts, answers, strict=True)
    ]
    assert found["exact_match"] == 1


@pytest.mark.parametrize(
    ("mask", "said"),
    [
        ("1011111", "ab"),
        ("0011110", "ab"),
        ("0011100", "ab"),
        ("0011000", "ab"),
        ("0111000", "?ab"),
        ("1000000", "!"),
    ],
)
def test_the_reference_is_the_last_run_of_learnt_tokens(talker: Talker, mask: str, said: str) -> None:
    speaker = chat.load(talker.folder)
    question, letter_a, letter_b, mark = (speaker.tokenizer.encode(text).ids[0] for text in "?ab!")
    stop = min(speaker.stop_ids, key=lambda token: token == speaker.tokenizer.token_to_id("<|im_end|>"))
    assert speaker.tokenizer.decode([stop])  # the template's own would not be decoded anyway
    newline = speaker.tokenizer.encode("\n").ids[0]
    row = tokens.TokenRow([mark, question, letter_a, letter_b, stop, newline, stop], [int(bit) for bit in mask])
    assert answers.wanted(row, speaker) == said


@pytest.fixture
def caller(talker: Talker, tmp_path: Path) -> Path:
    """The talker with a template that knows tools."""
    folder = shutil.copytree(talker.folder, tmp_path / "caller")
    (folder / "chat_template.jinja").write_text(TOOL_TEMPLATE, encoding="utf-8")
    return folder


def test_tools_are_offered_and_calls_are_compared_as_the_template_writes_them(
    talker: Talker, caller: Path, score: Score
) -> None:
    with_tools, without = (decoded(talker, say(caller, talker.prompts[:4], tools)) for tools in ([TOOL], None))
    assert with_tools != without
    rows: list[Row] = []
    for prompt, answer in zip(talker.prompts, with_tools, strict=False):
        calls = [{"type": "function", "function": {"name": answer, "arguments": {}}}]
        message = {"role": "assistant", "content": "", "tool_calls": calls}
        rows.append({"messages": [*prompt, message], "tools": [TOOL]})
    rows[1]["messages"][-1]["tool_calls"][0]["function"]["name"] += "!"
    _, samples = score(caller, rows)
    assert [sample["answer"] for sample in samples] == with_tools
    assert [sample["exact_match"] for sample in samples] == [True, False, True, True]
    assert [sample["tools"] for sample in samples] == [[TOOL]] * 4
    assert samples[1]["reference"] == (with_tools[1] + "!").strip()


def test_greedy_means_greedy_whatever_generation_config_says(talker: Talker, score: Score, tmp_path: Path) -> None:
    folder = shutil.copytree(talker.folder, tmp_path / "penal")
    file = folder / "generation_config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    config |= {"do_sample": True, "temperature": 5.0, "top_k": 3, "repetition_penalty": 5.0}
    file.write_text(json.dumps(config), encoding="utf-8")
    assert decoded(talker, say(folder, talker.prompts)) != talker.answers
    _, rows = score(folder, answered(talker, ["reference"] * 8))
    assert [row["answer"] for row in rows] == talker.answers
