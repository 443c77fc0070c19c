"""Generated parts of the pages: tables and blocks made from the code and from the metrics of the committed run."""

import importlib
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from stages.common import drop_reasons, files
from stages.common.scores import MODELS
from stages.preprocess.columns import MEDIA, OPTIONAL_COLUMNS, REQUIRED_COLUMNS, match_columns
from stages.preprocess.formats import convert
from stages.preprocess.params import PreprocessParams
from stages.preprocess.turns import MEDIA_PARTS, REASONING, ROLES, SWITCHES, TEXT_PARTS
from stages.report.gates import GATES
from tools.bench import families

TOOL = {"name": "add", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}}
# One row of every format. The converted row is computed.
ROWS: dict[str, dict[str, Any]] = {
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
ALSO = {"text": ", or a line, a paragraph or the full text of a .txt file"}


def stage_table(stages: dict[str, Any]) -> str:
    """Write the stages of dvc.yaml as a table."""
    lines = ["| stage | what it does | writes |", "|---|---|---|"]
    for name, stage in stages.items():
        outs = [out for kind in ("outs", "metrics", "plots") for out in stage.get(kind, [])]
        paths = [next(iter(out)) if isinstance(out, dict) else out for out in outs]
        written = ", ".join(f"`{path}`" for path in dict.fromkeys(map(short, paths)))
        lines.append(f"| [{name}](docs/{name}.md) | {stage['desc']} | {written} |")
    return "\n".join(lines)


def short(path: str) -> str:
    """Shorten a path: MODEL for the name of a model, the folder for the files of data/prepared."""
    path = path.replace("${item.model}", "MODEL")
    return "data/prepared" if path.startswith("data/prepared/") else path


def result_table(metrics: Path) -> str:
    """Write the scores of the committed run as a table."""
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
    """Write a score with three digits; None, where no row could be answered, is a dash."""
    return "-" if score is None else f"{score:.3f}"


def params_table(params: Path) -> str:
    """Write every key of params.yaml with its value and its comment as a table."""
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


def formats_blocks() -> str:
    """Write an example of a raw row and of the converted row for every format."""
    parts = []
    for name, row in ROWS.items():
        needs = ", ".join(f"`{column}`" for column in REQUIRED_COLUMNS[name])
        may = ", ".join(f"`{column}`" for column in OPTIONAL_COLUMNS[name])
        columns = f"Needs {needs}{f'; may have {may}' if may else ''}{ALSO.get(name, '')}."
        out = convert(row, match_columns(list(row), {}, name))
        parts.append(f"**{name}.** {columns}\n\n```json\n{line(row)}\n```\n\nbecomes\n\n```json\n{line(out)}\n```")
    return "\n\n".join(parts)


def columns_table() -> str:
    """Write the names under which each column of each format is read as a table."""
    lines = ["| format | column | read under these names, the first that a file has |", "|---|---|---|"]
    for name, required in REQUIRED_COLUMNS.items():
        for column, synonyms in (required | OPTIONAL_COLUMNS[name]).items():
            shown = f"**{column}**" if column in required else column
            lines.append(f"| {name} | {shown} | {code(synonyms)} |")
    lines.append(f"| every | refused: a text model cannot read them | {code(MEDIA)} |")
    return "\n".join(lines)


def turns_table() -> str:
    """Write what is read in a message as a table."""
    lines = ["| in a message | read under these names |", "|---|---|"]
    for role in dict.fromkeys(ROLES.values()):
        shown = "a message that is tool calls" if role == "call" else f"role {role}"
        lines.append(f"| {shown} | {code(name for name, meant in ROLES.items() if meant == role)} |")
    lines.append(f"| reasoning | {code(REASONING)}, also as the type of a part of the content |")
    lines.append(f"| in the loss or not | {code(SWITCHES)} |")
    lines.append(f"| a text part of a content | a string, or type {code(part for part in TEXT_PARTS if part)} |")
    lines.append(f"| a refused part of a content | type {code(MEDIA_PARTS)} |")
    return "\n".join(lines)


def code(words: Iterable[str]) -> str:
    """Write words as code, with commas."""
    return ", ".join(f"`{word}`" for word in words)


def drop_reasons_table() -> str:
    """Write every drop reason with the param that decides about it as a table."""
    lines = ["| drop reason | the row | param | choices |", "|---|---|---|---|"]
    for reason, (param, words) in drop_reasons.REASONS.items():
        annotation = PreprocessParams.model_fields[param].annotation
        choices = ", ".join(
            f"`{choice}`" for choice in getattr(annotation, "__args__", ()) if isinstance(choice, str)
        )
        lines.append(f"| `{reason}` | {words} | `preprocess.{param}` | {choices} |")
    return "\n".join(lines)


def gates_table() -> str:
    """Write every gate with its meaning and what to check when it fails as a table."""
    lines = ["| gate | its value | when it fails, see |", "|---|---|---|"]
    return "\n".join([*lines, *(f"| `{name}` | {gate.meaning} | {gate.hint} |" for name, gate in GATES.items())])


def families_table(facts: Path) -> str:
    """Write what tools/bench/families.py found out about each family of models as a table."""
    lines = [
        "| models | markers from | same text | stop token | tools | reasoning | marked, not in the loss "
        "| tokenizer, rows equal |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, found in files.read_json(facts).items():
        marked = found["changed"].get("chat_template", {"from": "the model", "other_text": [], "also": []})
        same = f"but for {', '.join(marked['other_text'])}" if marked["other_text"] else "yes"
        same += f"; also {', '.join(marked['also'])}" if marked["also"] else ""
        kinds = [kind for kind in ("definitions", "calls") if found[f"tool_{kind}"]]
        equal = f"{found['rows_kept'] - found['rows_unequal']} of {found['rows_kept']}"
        out = ", ".join(f"`{json.dumps(text, ensure_ascii=False)[1:-1]}`" for text in found["not_in_loss"])
        stop, out = (text.replace("|", "\\|") for text in (found["stop_token"], out))  # in a table it ends a cell
        lines.append(
            f"| {name} | {marked['from']} | {same} | `{stop}` | {', '.join(kinds) or 'no'} "
            f"| {'yes' if found['reasoning'] else 'no'} | {out} | {found['tokenizer']}: {equal} |"
        )
    lines += [f"| {name} | | | | | | | not available |" for name in families.ABSENT]
    return "\n".join(lines)


def help_text(module: str) -> str:
    """Write the output of a command's `--help`, 80 columns wide.

    Args:
        module: module of the command, such as `stages.train.__main__` or `tools.gate`.
    """
    command = importlib.import_module(module).main
    module = module.removesuffix(".__main__")
    context = click.Context(command, info_name=f"python -m {module}", terminal_width=80, max_content_width=80)
    return f"```console\n$ python -m {module} --help\n{command.get_help(context)}\n```"


def line(row: Any) -> str:
    """Write a row as one line of JSON."""
    return json.dumps(row, ensure_ascii=False)
