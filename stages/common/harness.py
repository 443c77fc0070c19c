"""Harness: tasks of lm-evaluation-harness, its own by name and local ones by file, run on a loaded model."""

import logging
import math
import re
from pathlib import Path
from typing import Any, NamedTuple

import click

GROUP = re.compile(r"(?m)^group: *(\S+)")
# What the harness and the data set library raise at a task that is wrong, or whose rows are not there.
REFUSALS = (OSError, ValueError, TypeError, LookupError, AttributeError, ImportError)


class Tasks(NamedTuple):
    """Names or files of tasks, and the harness's manager that knows them."""

    names: list[str]
    manager: Any


def find(names: list[str]) -> Tasks:
    """Find tasks and their rows, before a model is loaded for them.

    Raises:
        click.ClickException: a task that is unknown or broken, whose rows would have to be downloaded, or that runs
            code which the model wrote.
    """
    if not names:
        return Tasks([], None)
    from lm_eval.tasks import TaskManager  # type: ignore[import-untyped]

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    groups = {name: found[1] for name in names if (found := GROUP.search(read(name)))}
    # To list the harness's own tasks takes it ten seconds; a file that is no group cannot refer to them.
    own = bool(groups) or any(not Path(name).is_file() for name in names)
    # It finds a group by its name in a folder, and not by its file.
    manager = TaskManager(include_path=sorted({str(Path(name).parent) for name in groups}), include_defaults=own)
    tasks = Tasks([groups.get(name, name) for name in names], manager)
    for name, known in zip(names, tasks.names, strict=True):
        check(name, known, manager)
    return tasks


def check(name: str, known: str, manager: Any) -> None:
    """Load a task and its rows, so that nothing stops later.

    Args:
        name: as it stands in the params.
        known: as the manager knows it.
        manager: the harness's manager of tasks.
    """
    import yaml  # type: ignore[import-untyped]

    try:
        loaded = manager.load(known)["tasks"]
    except (*REFUSALS, yaml.YAMLError) as error:
        raise click.ClickException(f"eval.tasks: {name}: {reason(error)}") from None
    for task, found in loaded.items():
        if getattr(found, "UNSAFE_CODE", False):
            raise click.ClickException(f"eval.tasks: {task}: runs code that the model wrote; take another task")


def read(name: str) -> str:
    """Give the text of a task file, nothing for the name of a task.

    Raises:
        click.ClickException: a file that is not there.
    """
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        return ""
    if not path.is_file():
        raise click.ClickException(f"eval.tasks: {name}: no such file")
    return path.read_text(encoding="utf-8")


def reason(error: Exception) -> str:
    """Say in one line why a task cannot be loaded, and what to do."""
    text = " ".join(str(error).split())
    if "is not a registered task" in text:
        return "no task of lm-evaluation-harness (`.venv/bin/lm-eval ls tasks` lists them), and no file"
    if isinstance(error, ConnectionError):
        return f"{text}; no stage but base uses the network: put the rows into data/tasks (docs/eval.md)"
    return f"{text} ({type(error).__name__}); docs/eval.md says what a task file holds"


class Scores(NamedTuple):
    """What tasks gave: `{task: {metric: value}}`, and the mean of those of which more is better."""

    tasks: dict[str, dict[str, Any]]
    mean: float | None


def run(tasks: Tasks, model: Any, limit: int | None, chat_template: bool, seed: int) -> Scores:
    """Run tasks on a model.

    Args:
        tasks: what `find` gave.
        model: the model as the harness sees it.
        limit: rows per task; None for all.
        chat_template: ask through the chat template.
        seed: draws the few-shot examples.

    Returns:
        The scores without standard errors; groups of tasks are among them, but not in the mean.
    """
    from lm_eval import simple_evaluate  # type: ignore[import-untyped]

    found = simple_evaluate(
        model,
        tasks=tasks.names,
        task_manager=tasks.manager,
        limit=limit,
        apply_chat_template=chat_template,
        bootstrap_iters=0,
        log_samples=False,
        random_seed=seed,
        numpy_random_seed=seed,
        torch_random_seed=seed,
        fewshot_random_seed=seed,
    )
    scores = {task: metrics(values) for task, values in sorted(found["results"].items())}
    scores = {task: values for task, values in scores.items() if values}  # a group may have none of its own
    return Scores(scores, mean(scores, found["higher_is_better"], set(found["n-samples"])))


def mean(
    scores: dict[str, dict[str, float | None]], higher: dict[str, dict[str, bool | None]], single: set[str]
) -> float | None:
    """Average over the tasks that are no groups, of each the scores of which more is better."""
    means = []
    for task in sorted(single & scores.keys()):
        better = [key for key in scores[task] if higher[task][key.split(",")[0]]]
        values = [value for key in better if (value := scores[task][key]) is not None]
        means += [sum(values) / len(values)] if values else []
    return round(sum(means) / len(means), 6) if means else None


def metrics(values: dict[str, Any]) -> dict[str, float | None]:
    """Take the scores out of a task's results: `acc,none` as `acc`, `exact_match,flexible` as it stands."""
    scores = {
        key.removesuffix(",none"): value for key, value in values.items() if "," in key and "_stderr," not in key
    }
    return {
        key: round(float(value), 6) if math.isfinite(value) else None
        for key, value in sorted(scores.items())
        if isinstance(value, int | float)
    }
