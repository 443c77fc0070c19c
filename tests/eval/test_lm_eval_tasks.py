"""Tasks of lm-evaluation-harness, compared with answers counted with transformers alone."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from noisy_model import GENERAL, load
from ruamel.yaml import YAML

from stages.common import files
from stages.eval import __main__ as stage
from stages.eval.lm_eval_tasks import explain, mean_score, read_scores

TASKS = Path(__file__).parents[2] / "data" / "tasks"
GENERATE = {
    "task": "echo",
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"test": "rows.jsonl"}},
    "test_split": "test",
    "output_type": "generate_until",
    "doc_to_text": "{{question}}",
    "doc_to_target": "{{answer}}",
    "generation_kwargs": {"until": ["<|im_end|>"], "max_gen_toks": 6},
    "metric_list": [{"metric": "exact_match"}],
}
Run = Callable[..., tuple[dict[str, Any], float | None]]


@pytest.fixture
def run(params: Callable[..., Path], succeed: Callable[..., str], workspace: Path, base: Path, prepared: Path) -> Run:
    """Run the eval stage with tasks on the base model and one val row; return the tasks' scores and their mean."""
    folder = params().parent
    shutil.copytree(TASKS, folder / "data" / "tasks")

    def run(tasks: list[str], **changes: Any) -> tuple[dict[str, Any], float | None]:
        params({"eval.tasks": tasks, "eval.rows": 1} | {f"eval.{key}": value for key, value in changes.items()})
        inputs = ("--val", prepared / "val.jsonl", "--tokens", prepared / "val.arrow", "--general", GENERAL)
        succeed(stage.main, "--model", base, *inputs, "--metrics", "x.json", "--answers", "x.jsonl")
        found = json.loads((folder / "x.json").read_text(encoding="utf-8"))
        return found["tasks"], found["tasks_mean"]

    return run


def write_task(folder: Path, rows: list[dict[str, Any]] | None = None, **changes: Any) -> None:
    """Write a task file whose task generates, and its rows."""
    with (folder / "task.yaml").open("w", encoding="utf-8") as file:
        YAML(typ="safe").dump(GENERATE | changes, file)
    (folder / "rows.jsonl").write_text(files.dump_rows(rows or [{"question": "1", "answer": "2"}]), encoding="utf-8")


def chosen(model: Any, tokenizer: Any, row: dict[str, Any]) -> int:
    """Return the index of the most likely of a row's choices."""
    import torch

    start = len(tokenizer(row["given"])["input_ids"])
    found = []
    for choice in row["choices"]:
        ids = tokenizer(f"{row['given']}\n{choice}", return_tensors="pt")["input_ids"]
        with torch.inference_mode():
            logs = model(ids).logits[0].log_softmax(-1)
        found.append(sum(logs[place - 1, ids[0, place]].item() for place in range(start, ids.shape[1])))
    return found.index(max(found))


@pytest.mark.slow
def test_the_example_task_counts_the_most_likely_choices(base: Path, run: Run) -> None:
    rows = files.read_rows(TASKS / "plain.jsonl")[:20]
    model, tokenizer = load(base)
    right = sum(chosen(model, tokenizer, row) == row["answer"] for row in rows)
    assert 0 < right < 20
    assert run(["data/tasks/plain.yaml"], task_rows=20) == ({"plain": {"acc": right / 20}}, right / 20)


def generated(model: Any, tokenizer: Any, question: str, chat: bool) -> str:
    """Generate up to six tokens, at most up to the end of the answer."""
    messages = [{"role": "user", "content": question}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True) if chat else question
    ids = tokenizer(text, return_tensors="pt")
    completion = model.generate(**ids, max_new_tokens=6, do_sample=False)[0, ids["input_ids"].shape[1] :]
    return tokenizer.decode(completion).partition("<|im_end|>")[0].replace("<|endoftext|>", "")


@pytest.mark.slow
@pytest.mark.parametrize("chat", [False, True])
def test_a_local_task_generates_with_the_chat_template_or_without(
    base: Path, run: Run, tmp_path: Path, chat: bool
) -> None:
    questions = ["Hello!", "sort: pear fig\n", "1 and 2", "Monday"]
    model, tokenizer = load(base)
    answers = [generated(model, tokenizer, question, chat) for question in questions]
    assert answers != [generated(model, tokenizer, question, not chat) for question in questions]
    rows = [{"question": question, "answer": answer} for question, answer in zip(questions, answers, strict=True)]
    rows[2]["answer"] += "!"
    write_task(tmp_path, rows)
    assert run(["task.yaml"], task_chat_template=chat) == ({"echo": {"exact_match": 0.75}}, 0.75)
    rows[3]["answer"] += "!"  # the same file with other rows: no cache keeps the old ones
    write_task(tmp_path, rows)
    assert run(["task.yaml"], task_chat_template=chat) == ({"echo": {"exact_match": 0.5}}, 0.5)


def test_a_task_without_its_rows_is_named_in_one_line(
    params: Callable[..., Path], fail: Callable[..., str], base: Path, prepared: Path
) -> None:
    folder = params({"eval.tasks": ["task.yaml"]}).parent
    write_task(folder, dataset_kwargs={"data_files": {"test": "no.jsonl"}})
    inputs = ("--val", prepared / "val.jsonl", "--tokens", prepared / "val.arrow", "--general", GENERAL)
    message = fail(stage.main, "--model", base, *inputs, "--metrics", "x.json", "--answers", "x.jsonl")
    assert message.startswith("eval.tasks: task.yaml: Unable to find ")
    assert "\n" not in message


@pytest.mark.slow
def test_a_group_takes_a_task_of_the_harness_with_local_rows(run: Run, tmp_path: Path) -> None:
    """The example of docs/eval.md. It takes ten seconds: the harness first lists its own tasks."""
    page = (Path(__file__).parents[2] / "docs" / "eval.md").read_text(encoding="utf-8")
    example = "group:" + page.partition("```yaml\ngroup:")[2].partition("```")[0]
    (tmp_path / "data" / "tasks" / "group.yaml").write_text(example, encoding="utf-8")
    rows = [
        {"ctx_a": "She boils an egg.", "ctx_b": "then she", "endings": [" eats it", " x", " y", " z"], "label": "0"}
    ]
    rows[0] |= {"activity_label": "Cooking"}
    (tmp_path / "data" / "tasks" / "hellaswag.jsonl").write_text(files.dump_rows(rows * 2), encoding="utf-8")
    found = run(["data/tasks/group.yaml"])[0]
    assert set(found) == {"hellaswag"}
    assert set(found["hellaswag"]) == {"acc", "acc_norm"}


def test_an_unknown_task_name_is_explained() -> None:
    from lm_eval.tasks import TaskManager

    with pytest.raises(KeyError) as raised:
        TaskManager(include_defaults=False).load("helloswag")
    assert explain(raised.value).startswith("neither a file nor a task of lm-evaluation-harness")


def test_scores_are_kept_without_standard_errors() -> None:
    found = {
        "alias": "x",
        "acc,none": 0.5,
        "acc_stderr,none": "N/A",
        "exact_match,strict": 1,
        "ppl,none": float("inf"),
    }
    assert read_scores(found) == {"acc": 0.5, "exact_match,strict": 1.0, "ppl": None}


@pytest.mark.parametrize(
    ("scores", "mean"),
    [
        ({}, None),
        ({"one": {"acc": 0.5}}, 0.5),
        ({"one": {"acc": 0.5, "exact_match,strict": 0.75, "perplexity": 99.0}}, 0.625),  # less is better of the last
        ({"one": {"acc": 0.5, "exact_match,strict": None}, "two": {"acc": 0.0}}, 0.25),
        ({"one": {"acc": 0.5}, "two": {"acc": 0.25}, "both": {"acc": 0.9}}, 0.375),  # both: a group of the others
        ({"one": {"perplexity": 99.0}}, None),
    ],
)
def test_the_mean_takes_scores_of_which_more_is_better(scores: dict[str, Any], mean: float | None) -> None:
    higher: dict[str, dict[str, bool | None]] = {
        task: {"acc": True, "exact_match": True, "perplexity": False} for task in ("one", "two", "both")
    }
    assert mean_score(scores, higher, {"one", "two"}) == mean


def test_without_tasks_there_is_no_mean(run: Run) -> None:
    assert run([]) == ({}, None)
