"""Tables and blocks of the documentation that are made from the code and from what the committed run measured."""

import importlib
import json
import re
from pathlib import Path
from typing import Any

import click

from stages.common import checks, files, forms
from stages.common.checks import PreprocessParams
from stages.common.gates import GATES
from stages.compare import MODELS

TOOL = {"name": "add", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}}
# One row of every form; what becomes of it is computed.
ROWS = {
    "alpaca": {
        "instruction": "Sort these words.",
        "input": "fig, apple",
        "output": "apple, fig",
        "system": "Be brief.",
        "history": [["Hello!", "Hello! How can I help?"]],
    },
    "messages": {
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "Is 7 a prime?"}]},
            {"role": "assistant", "content": "Yes."},
        ]
    },
    "sharegpt": {
        "conversations": [
            {"from": "human", "value": "What is 2 + 2?"},
            {"from": "function_call", "value": '{"name": "add", "arguments": {"a": 2, "b": 2}}'},
            {"from": "observation", "value": "4"},
            {"from": "gpt", "value": "It is 4."},
        ],
        "tools": json.dumps([TOOL]),
    },
    "prompt_completion": {"prompt": "The capital of France?", "completion": "Paris."},
    "text": {"text": "Anarchism is a political philosophy."},
}
KINDS = {"text": ", or a line, paragraph or whole of a .txt file"}


def stage_table(stages: dict[str, Any]) -> str:
    """Give dvc.yaml's stages as a table."""
    lines = ["| stage | what it does | writes |", "|---|---|---|"]
    for name, stage in stages.items():
        outs = [out for kind in ("outs", "metrics", "plots") for out in stage.get(kind, [])]
        paths = [next(iter(out)) if isinstance(out, dict) else out for out in outs]
        written = ", ".join(f"`{path}`" for path in dict.fromkeys(map(short, paths)))
        lines.append(f"| [{name}](docs/{name}.md) | {stage['desc']} | {written} |")
    return "\n".join(lines)


def short(path: str) -> str:
    """Give a path as it is spoken of: a model's name as MODEL, the many files of data/prepared by their folder."""
    path = path.replace("${item.model}", "MODEL")
    return "data/prepared" if path.startswith("data/prepared/") else path


def result_table(metrics: Path) -> str:
    """Give the committed run's scores as a table."""
    lines = ["| model | exact match | perplexity | stop rate | weights |", "|---|---|---|---|---|"]
    awq, merge = files.read_json(metrics / "awq.json"), files.read_json(metrics / "merge.json")
    sizes = {"base": merge["base_size_bytes"], "merged": merge["size_bytes"], "awq": awq["size_bytes"]}
    for name in MODELS:
        scores = files.read_json(metrics / "eval" / f"{name}.json")
        match, stop = rounded(scores["exact_match"]), rounded(scores["stop_rate"])
        lines.append(f"| {name} | {match} | {scores['perplexity']:.3f} | {stop} | {sizes[name] / 1e6:.2f} MB |")
    data = files.read_json(metrics / "preprocess.json")
    lines += [
        "",
        f"{data['rows_read']} rows read, {data['rows_kept']} kept; {data['rows_train']} to train on, "
        f"{data['rows_val']} to score on. Merged against base + adapter: mean KL {merge['kl_mean']:.1e}, "
        f"top-1 agreement {merge['top1_agreement']:.4f}. AWQ: {awq['quantized_modules']} of "
        f"{awq['expected_modules']} linear layers quantised.",
    ]
    return "\n".join(lines)


def rounded(score: float | None) -> str:
    """Give a score with three digits, or a dash where no row could be answered."""
    return "-" if score is None else f"{score:.3f}"


def params_table(params: Path) -> str:
    """Give every key of params.yaml with its value and its comment."""
    lines = ["| key | default | why |", "|---|---|---|"]
    path: list[str] = []
    for line in params.read_text(encoding="utf-8").splitlines():
        match = re.fullmatch(r"(?P<indent> *)(?P<key>\w+):(?P<value>[^#]*)(#(?P<why>.*))?", line)
        if not match:
            continue
        depth = len(match["indent"]) // 2
        path[depth:] = [match["key"]]
        value, why = match["value"].strip(), (match["why"] or "").strip()
        if limit := re.fullmatch(r'({.*), reason: "(.*)"}', value):
            value, why = f"{limit[1]}}}", limit[2]
        lines.append(f"| `{'.'.join(path)}` | {f'`{value}`' if value else ''} | {why} |")
    return "\n".join(lines)


def forms_blocks() -> str:
    """Give a row in and a row out for every form."""
    parts = []
    for form, row in ROWS.items():
        needs = ", ".join(f"`{name}`" for name in forms.NEEDS[form])
        may = ", ".join(f"`{name}`" for name in forms.MAY_HAVE[form])
        said = f"Told by {needs}{f'; may have {may}' if may else ''}{KINDS.get(form, '')}."
        out = forms.convert(row, form, {})
        parts.append(f"**{form}.** {said}\n\n```json\n{line(row)}\n```\n\nbecomes\n\n```json\n{line(out)}\n```")
    return "\n\n".join(parts)


def reasons_table() -> str:
    """Give every reason for which a row is left out, with the setting that decides."""
    lines = ["| reason | the row | setting | choices |", "|---|---|---|---|"]
    for reason, (param, words) in checks.REASONS.items():
        annotation = PreprocessParams.model_fields[param].annotation
        choices = ", ".join(
            f"`{choice}`" for choice in getattr(annotation, "__args__", ()) if isinstance(choice, str)
        )
        lines.append(f"| `{reason}` | {words} | `preprocess.{param}` | {choices} |")
    return "\n".join(lines)


def gates_table() -> str:
    """Give every gate with what its value is and what to look at."""
    lines = ["| gate | its value | when it fails, look at |", "|---|---|---|"]
    return "\n".join([*lines, *(f"| `{name}` | {gate.meaning} | {gate.look} |" for name, gate in GATES.items())])


def help_text(module: str) -> str:
    """Give what `--help` prints, 80 columns wide."""
    command = importlib.import_module(module).main
    context = click.Context(command, info_name=f"python -m {module}", terminal_width=80, max_content_width=80)
    return f"```console\n$ python -m {module} --help\n{command.get_help(context)}\n```"


def line(row: Any) -> str:
    """Give a row as one line of JSON."""
    return json.dumps(row, ensure_ascii=False)
