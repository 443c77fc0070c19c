"""Tasks of lm-evaluation-harness: find them before the model loads, then run them on the loaded model.

`eval.tasks` names tasks of the harness itself, or task files such as data/tasks/plain.yaml.
"""

import logging
import math
import re
from pathlib import Path
from typing import Any, NamedTuple

import click

GROUP = re.compile(r"(?m)^group: *(\S+)")
# What lm_eval and datasets raise when a task is wrong or its rows are missing.
TASK_ERRORS = (OSError, ValueError, TypeError, LookupError, AttributeError, ImportError)


class Tasks(NamedTuple):
    """Tasks that are ready to run: names or files, and the harness's `TaskManager` that knows them."""

    names: list[str]
    manager: Any


class TaskScores(NamedTuple):
    """Scores as `{task: {metric: value}}`, and the mean over the metrics of which more is better."""

    tasks: dict[str, dict[str, Any]]
    mean: float | None


def find_tasks(names: list[str]) -> Tasks:
    """Load every task and its rows, so that a problem shows before the model loads.

    Args:
        names: `eval.tasks`.

    Raises:
        click.ClickException: a task is unknown or broken, needs a download, or runs code that a model writes.
    """
    if not names:
        return Tasks([], None)
    import yaml  # type: ignore[import-untyped]
    from lm_eval.tasks import TaskManager

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    groups = {name: match[1] for name in names if (match := GROUP.search(read_task_file(name)))}
    # The harness takes ten seconds to list its own tasks, and only a name or a group can refer to them.
    defaults = bool(groups) or any(not Path(name).is_file() for name in names)
    # It finds a group by its name below a folder, not by its file.
    manager = TaskManager(include_path=sorted({str(Path(name).parent) for name in groups}), include_defaults=defaults)
    tasks = Tasks([groups.get(name, name) for name in names], manager)
    for name, known in zip(names, tasks.names, strict=True):
        try:
            loaded = manager.load(known)["tasks"]
        except (*TASK_ERRORS, yaml.YAMLError) as error:
            raise click.ClickException(f"eval.tasks: {name}: {explain(error)}") from None
        for task, found in loaded.items():
            if getattr(found, "UNSAFE_CODE", False):
                raise click.ClickException(f"eval.tasks: {task}: runs code that the model writes; use another task")
    return tasks


def read_task_file(name: str) -> str:
    """Return the text of a task file; empty where `name` is not a file name.

    Raises:
        click.ClickException: the file does not exist.
    """
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        return ""
    if not path.is_file():
        raise click.ClickException(f"eval.tasks: {name}: no such file")
    return path.read_text(encoding="utf-8")


def explain(error: Exception) -> str:
    """Say in one line why a task cannot be loaded, and what to do."""
    text = " ".join(str(error).split())
    if "is not a registered task" in text:
        return "neither a file nor a task of lm-evaluation-harness; `.venv/bin/lm-eval ls tasks` lists those"
    if isinstance(error, ConnectionError):
        return f"{text}; only the base stage uses the network: put the rows into data/tasks (docs/eval.md)"
    return f"{text} ({type(error).__name__}); docs/eval.md shows a task file"


def run_tasks(tasks: Tasks, model: Any, limit: int | None, chat_template: bool, seed: int) -> TaskScores:
    """Run tasks on a model.

    Args:
        tasks: of `find_tasks`.
        model: wrapped for the harness.
        limit: rows per task; None for all.
        chat_template: render the prompts with the chat template.
        seed: draws the few-shot examples.

    Returns:
        The scores without standard errors. Groups of tasks have scores, but are not part of the mean.
    """
    from lm_eval import simple_evaluate

    results = simple_evaluate(
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
    scores = {task: read_scores(values) for task, values in sorted(results["results"].items())}
    scores = {task: values for task, values in scores.items() if values}  # a group may have none of its own
    return TaskScores(scores, mean_score(scores, results["higher_is_better"], set(results["n-samples"])))


def read_scores(values: dict[str, Any]) -> dict[str, float | None]:
    """Take the scores from a task's results: `acc,none` becomes `acc`, `exact_match,flexible` keeps its name."""
    scores = {
        key.removesuffix(",none"): value for key, value in values.items() if "," in key and "_stderr," not in key
    }
    return {
        key: round(float(value), 6) if math.isfinite(value) else None
        for key, value in sorted(scores.items())
        if isinstance(value, int | float)
    }


def mean_score(
    scores: dict[str, dict[str, float | None]], higher: dict[str, dict[str, bool | None]], single: set[str]
) -> float | None:
    """Average over tasks, and within a task over its scores of which more is better.

    Args:
        scores: of all tasks and groups.
        higher: for each task and metric, whether more is better.
        single: the tasks that are not groups.
    """
    means = []
    for task in sorted(single & scores.keys()):
        better = [key for key in scores[task] if higher[task][key.split(",")[0]]]
        values = [value for key in better if (value := scores[task][key]) is not None]
        means += [sum(values) / len(values)] if values else []
    return round(sum(means) / len(means), 6) if means else None
