"""Harness: tasks of lm-evaluation-harness, run by the eval stage, against answers counted with transformers alone."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from ruamel.yaml import YAML
from talking import GENERAL, load

from stages import eval as stage
from stages.common import files, harness

TASKS = Path(__file__).parents[1] / "data" / "tasks"
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
    """Run tasks on the base model through the eval stage, with one val row, and give their figures and mean."""
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
    """Write a task that generates, and its rows."""
    with (folder / "task.yaml").open("w", encoding="utf-8") as file:
        YAML(typ="safe").dump(GENERATE | changes, file)
    (folder / "rows.jsonl").write_text(files.dump_rows(rows or [{"question": "1", "answer": "2"}]), encoding="utf-8")


def chosen(model: Any, tokenizer: Any, row: dict[str, Any]) -> int:
    """Choose the likeliest of a row's answers, one at a time."""
    import torch

    start = len(tokenizer(row["given"])["input_ids"])
    found = []
    for choice in row["choices"]:
        ids = tokenizer(f"{row['given']}\n{choice}", return_tensors="pt")["input_ids"]
        with torch.inference_mode():
            logs = model(ids).logits[0].log_softmax(-1)
        found.append(sum(logs[place - 1, ids[0, place]].item() for place in range(start, ids.shape[1])))
    return found.index(max(found))


def test_the_example_task_runs_and_counts_the_likeliest_choices(base: Path, run: Run) -> None:
    rows = files.read_rows(TASKS / "plain.jsonl")[:20]
    model, tokenizer = load(base)
    right = sum(chosen(model, tokenizer, row) == row["answer"] for row in rows)
    assert 0 < right < 20
    assert run(["data/tasks/plain.yaml"], task_rows=20) == ({"plain": {"acc": right / 20}}, right / 20)


def generated(model: Any, tokenizer: Any, question: str, chat: bool) -> str:
    """Let the model go on for six tokens, at most up to the end of its answer."""
    messages = [{"role": "user", "content": question}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True) if chat else question
    ids = tokenizer(text, return_tensors="pt")
    said = model.generate(**ids, max_new_tokens=6, do_sample=False)[0, ids["input_ids"].shape[1] :]
    return tokenizer.decode(said).partition("<|im_end|>")[0].replace("<|endoftext|>", "")


@pytest.mark.parametrize("chat", [False, True])
def test_a_task_of_ones_own_generates_with_the_chat_template_or_without(
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
    rows[3]["answer"] += "!"  # the same file with other rows: none are left in a cache
    write_task(tmp_path, rows)
    assert run(["task.yaml"], task_chat_template=chat) == ({"echo": {"exact_match": 0.5}}, 0.5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"test_split": "tset"}, "'tset' (KeyError)"),
        ({"dataset_kwargs": {"data_files": {"test": "no.jsonl"}}}, "Unable to find "),
        ({"doc_to_txet": ""}, "TaskConfig.__init__() got an unexpected keyword argument 'doc_to_txet'"),
        ({"unsafe_code": True}, "runs code that the model wrote; take another task"),
    ],
)
def test_a_broken_task_is_named_before_the_model_loads(
    params: Callable[..., Path], fail: Callable[..., str], workspace: Path, prepared: Path, changes: Any, message: str
) -> None:
    folder = params({"eval.tasks": ["task.yaml"]}).parent
    write_task(folder, **changes)
    before = sorted(path.name for path in folder.iterdir())
    inputs = ("--val", prepared / "val.jsonl", "--tokens", prepared / "val.arrow", "--general", GENERAL)
    outputs = ("--metrics", "x.json", "--answers", "x.jsonl")
    said = fail(stage.main, "--model", workspace / "models" / "base", *inputs, *outputs)
    assert said.startswith(f"eval.tasks: {'echo' if 'unsafe_code' in changes else 'task.yaml'}: {message}")
    assert "\n" not in said
    assert sorted(path.name for path in folder.iterdir()) == before


def test_a_group_takes_a_task_of_the_harness_with_rows_from_here(run: Run, tmp_path: Path) -> None:
    """The example of docs/eval.md; the harness lists its own tasks first, which takes ten seconds."""
    page = (Path(__file__).parents[1] / "docs" / "eval.md").read_text(encoding="utf-8")
    example = page.partition("```yaml\n")[2].partition("```")[0]
    (tmp_path / "data" / "tasks" / "group.yaml").write_text(example, encoding="utf-8")
    rows = [
        {"ctx_a": "She boils an egg.", "ctx_b": "then she", "endings": [" eats it", " x", " y", " z"], "label": "0"}
    ]
    rows[0] |= {"activity_label": "Cooking"}
    (tmp_path / "data" / "tasks" / "hellaswag.jsonl").write_text(files.dump_rows(rows * 2), encoding="utf-8")
    found = run(["data/tasks/group.yaml"])[0]
    assert set(found) == {"hellaswag"}
    assert set(found["hellaswag"]) == {"acc", "acc_norm"}


def test_a_file_that_is_not_there_is_named() -> None:
    with pytest.raises(click.ClickException, match=r"^eval.tasks: data/tasks/no.yaml: no such file$"):
        harness.find(["data/tasks/no.yaml"])


def test_rows_that_would_have_to_be_downloaded_are_asked_for() -> None:
    import lm_eval.tasks

    file = Path(lm_eval.tasks.__file__).parent / "hellaswag" / "hellaswag.yaml"
    with pytest.raises(click.ClickException) as raised:
        harness.find([str(file)])
    assert raised.value.message == (
        f"eval.tasks: {file}: Couldn't reach 'Rowan/hellaswag' on the Hub (OfflineModeIsEnabled); no stage but base "
        "uses the network: put the rows into data/tasks (docs/eval.md)"
    )


def test_a_name_that_the_harness_does_not_know_is_named() -> None:
    from lm_eval.tasks import TaskManager

    with pytest.raises(KeyError) as raised:
        TaskManager(include_defaults=False).load("helloswag")
    assert harness.reason(raised.value).startswith("no task of lm-evaluation-harness")


def test_scores_are_kept_and_their_errors_are_not() -> None:
    found = {
        "alias": "x",
        "acc,none": 0.5,
        "acc_stderr,none": "N/A",
        "exact_match,strict": 1,
        "ppl,none": float("inf"),
    }
    assert harness.metrics(found) == {"acc": 0.5, "exact_match,strict": 1.0, "ppl": None}


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
def test_the_mean_is_of_the_scores_of_which_more_is_better(scores: dict[str, Any], mean: float | None) -> None:
    higher = {task: {"acc": True, "exact_match": True, "perplexity": False} for task in ("one", "two", "both")}
    assert harness.mean(scores, higher, {"one", "two"}) == mean


def test_without_tasks_there_is_no_mean(run: Run) -> None:
    assert run([]) == ({}, None)
