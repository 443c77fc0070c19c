"""convert: settings of other trainers mean the same here, or are named with the reason."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from stage_runs import fail_in, succeed_in

from stages.common.params import read_yaml
from tools.convert import __main__ as tool
from tools.convert import axolotl, llama_factory, unsloth
from tools.convert.overlay import KINDS, text_of
from tools.convert.settings import Found, leave_rest, read_settings
from tools.preflight import load_sections
from tools.recipe import __main__ as recipe

ROOT = Path(__file__).resolve().parents[3]
QLORA = """\
base_model: ours/model-8b
revision_of_model: 0123456789abcdef0123456789abcdef01234567
load_in_4bit: true
adapter: qlora
lora_r: 32
lora_alpha: 16
lora_dropout: 0.05
lora_target_linear: true
lora_target_modules: [q_proj]
chat_template: chatml
special_tokens: {eos_token: <|im_end|>, pad_token: <pad>}
datasets:
  - path: rows/talks.jsonl
    type: chat_template
    field_messages: talk
    message_property_mappings: {role: from, content: value}
  - {path: ours/tasks, type: alpaca, split: 'train[:20%]', revision: 0123456789abcdef0123456789abcdef01234567}
  - {path: rows/forum.csv, type: {field_instruction: post, field_output: reply, format: '[INST] {instruction}'}}
  - {path: rows/pairs.jsonl, type: input_output}
val_set_size: 0.05
sequence_len: 4096
sample_packing: true
gradient_accumulation_steps: 4
micro_batch_size: 2
num_epochs: 3
max_steps:
optimizer: adamw_8bit
lr_scheduler: cosine
cosine_min_lr_ratio: 0.1
learning_rate: '2e-4'
warmup_ratio: 0.1
evals_per_epoch: 4
early_stopping_patience: 3
group_by_length: true
train_on_inputs: true
gradient_checkpointing: offload
bf16: auto
flash_attention: true
deepspeed: zero3.json
wandb_project:
my_own_key: 1
"""
SFT = """\
model_name_or_path: ours/model-8b
stage: sft
finetuning_type: lora
quantization_bit: 4
lora_target: q_proj,v_proj
additional_target: embed_tokens
template: qwen
enable_thinking: false
cutoff_len: 1024
neat_packing: true
max_samples: 500
per_device_train_batch_size: 1
gradient_accumulation_steps: 8
learning_rate: 1.0e-4
lr_scheduler_type: cosine
warmup_ratio: 0.1
val_size: 0.1
eval_strategy: steps
eval_steps: 50
report_to: wandb
pissa_init: true
dataset: talks,forum,pairs
dataset_dir: data
"""
INFO = {
    "talks": {
        "hf_hub_url": "ours/talks",
        "formatting": "sharegpt",
        "columns": {"messages": "talk"},
        "tags": {"role_tag": "role", "content_tag": "content"},
    },
    "forum": {"file_name": "forum.json", "columns": {"prompt": "post", "query": "quoted", "response": "reply"}},
    "pairs": {"file_name": "pairs.json", "ranking": True},
}
STUDIO = """\
model: ours/model-1b-unsloth-bnb-4bit
data: {local_dataset: [rows/talks.jsonl], format_type: sharegpt}
training: {max_seq_length: 1024, num_epochs: 2, batch_size: 4, warmup_steps: 7, train_on_completions: true}
lora: {lora_r: 8, lora_alpha: 16, target_modules: 'q_proj, v_proj', finetune_mlp_modules: true, use_loftq: true}
logging: {enable_wandb: false, wandb_project: mine}
"""
NOTEBOOK = """\
model_name: ours/model-1b
load_in_4bit: false
r: 8
random_state: 1
per_device_train_batch_size: 4
learning_rate: 1e-4
max_steps: 60
use_gradient_checkpointing: false
"""
SCRIPT = """\
#!/bin/bash
# python unsloth-cli.py --r 4
python unsloth-cli.py --model_name "ours/model-1b" \\
  --r 64 --load_in_4bit --lora_dropout=0.1 --use_rslora --seed 5  # a try
"""
FILES = {"qlora.yml": QLORA, "sft.yaml": SFT, "studio.yaml": STUDIO, "notebook.yaml": NOTEBOOK, "cli.sh": SCRIPT}


def convert(
    folder: Path, name: str, gpus: int = 1, text: str | None = None
) -> tuple[dict[str, Any], Found, list[str]]:
    """Convert a file without the check by the libraries: our values by dotted key, what was found, what is off."""
    path = folder / name
    path.write_text(text or FILES[name], encoding="utf-8")
    theirs, module = tool.recognise(path, read_settings(path), gpus)
    found = Found({}, {}, set(), [])
    module.convert(theirs, found, *([None] if module is llama_factory else []))
    off = leave_rest(theirs, found, module.REASONS)
    return {".".join(key): value for key, (value, _) in found.ours.items()}, found, off


def test_axolotl_means_the_same(tmp_path: Path) -> None:
    ours, found, off = convert(tmp_path, "qlora.yml", gpus=2)
    assert ours == {
        "base.source": "hub",
        "base.id": "ours/model-8b",
        "base.revision": "0123456789abcdef0123456789abcdef01234567",
        "base.stop_token": "<|im_end|>",
        "preprocess.max_length": 4096,
        "preprocess.over_length": "drop",
        "preprocess.val_fraction": 0.05,
        "preprocess.files": {
            "talks.jsonl": {"format": "sharegpt", "columns": {"conversations": "talk"}},
            "forum.csv": {"format": "alpaca", "columns": {"instruction": "post", "output": "reply"}},
        },
        "train.seed": 42,
        "train.method": "qlora",
        "train.batch_size": 2 * 4 * 2,
        "train.keep": "best",
        "train.early_stopping": 3,
        "train.machine.device_batch_size": 2,
        "train.lora.r": 32,
        "train.lora.lora_alpha": 16,
        "train.lora.lora_dropout": 0.05,
        "train.lora.target_modules": "all-linear",
        "train.sft.num_train_epochs": 3,
        "train.sft.learning_rate": 0.0002,
        "train.sft.lr_scheduler_type": "cosine_with_min_lr",
        "train.sft.lr_scheduler_kwargs": {"min_lr_rate": 0.1},
        "train.sft.optim": "adamw_8bit",
        "train.sft.warmup_steps": 0.1,
        "train.sft.eval_strategy": "steps",
        "train.sft.eval_steps": 0.083333,
        "train.sft.gradient_checkpointing": True,
        "train.sft.packing": True,
        "train.sft.max_length": 4096,
        "train.sft.train_sampling_strategy": "group_by_length",
    }
    assert off == ["max_steps", "wandb_project"]
    kinds = {key: reason.partition(":")[0] for key, reason in found.left.items()}
    assert kinds == {
        "lora_target_modules": "not needed",
        "chat_template": "other meaning",
        "gradient_checkpointing (offload)": "other meaning",
        "datasets: ours/tasks: type": "other meaning",
        "datasets: ours/tasks: split": "other meaning",
        "datasets: rows/forum.csv: type": "other meaning",
        "datasets: rows/pairs.jsonl: type": "unsupported",
        "train_on_inputs": "unsupported",
        "bf16": "not needed",
        "flash_attention": "not needed",
        "deepspeed": "unsupported",
        "my_own_key": "unknown",
    }
    assert found.rows == [
        "SOURCE=rows/talks.jsonl",
        "SOURCE=ours/tasks REVISION=0123456789abcdef0123456789abcdef01234567",
        "SOURCE=rows/forum.csv",
    ]


def test_what_axolotl_does_not_set_has_its_default(tmp_path: Path) -> None:
    ours, found, _ = convert(tmp_path, "silent.yml", text="base_model: /models/ours\nlearning_rate: 1e-5\n")
    assert ours["train.method"] == "full"
    assert ours["base.folder"] == "/models/ours"
    assert (ours["train.batch_size"], ours["preprocess.max_length"]) == (1, 512)
    assert (ours["train.sft.num_train_epochs"], ours["train.sft.warmup_steps"]) == (1.0, 0.03)
    assert found.ours["train", "seed"] == (42, "seed (axolotl's default)")
    assert found.left["val_set_size"].startswith("other meaning: ")


def test_axolotl_may_name_the_whole_batch(tmp_path: Path) -> None:
    text = "base_model: ours/model\nadapter: lora\nload_in_8bit: true\nmicro_batch_size: 4\nbatch_size: 32\n"
    ours, found, _ = convert(tmp_path, "batch.yml", text=text)
    assert (ours["train.batch_size"], ours["train.machine.device_batch_size"]) == (32, 4)
    assert ours["train.method"] == "lora"
    assert found.left["load_in_8bit"].startswith("other meaning: ")


def test_llama_factory_means_the_same(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "dataset_info.json").write_text(json.dumps(INFO), encoding="utf-8")
    ours, found, _ = convert(tmp_path, "sft.yaml")
    assert ours == {
        "base.source": "hub",
        "base.id": "ours/model-8b",
        "base.template_kwargs": {"enable_thinking": False},
        "preprocess.max_length": 1024,
        "preprocess.over_length": "truncate",
        "preprocess.rows": 500,
        "preprocess.val_fraction": 0.1,
        "preprocess.files": {
            "talks*": {"format": "messages", "columns": {"messages": "talk"}},
            "forum.json": {
                "format": "alpaca",
                "columns": {"instruction": "post", "input": "quoted", "output": "reply"},
            },
        },
        "train.seed": 42,
        "train.method": "qlora",
        "train.batch_size": 8,
        "train.machine.device_batch_size": 1,
        "train.lora.r": 8,
        "train.lora.lora_alpha": 16,
        "train.lora.target_modules": ["q_proj", "v_proj"],
        "train.lora.modules_to_save": ["embed_tokens"],
        "train.sft.learning_rate": 0.0001,
        "train.sft.lr_scheduler_type": "cosine",
        "train.sft.warmup_steps": 0.1,
        "train.sft.eval_strategy": "steps",
        "train.sft.eval_steps": 50,
        "train.sft.gradient_checkpointing": True,
        "train.sft.packing": True,
        "train.sft.max_length": 1024,
        "train.sft.train_sampling_strategy": "random",
    }
    assert set(found.left) == {
        *("cutoff_len (longer rows)", "dataset: pairs", "template", "report_to", "pissa_init", "dataset_dir"),
    }
    assert found.rows == [
        "SOURCE=ours/talks REVISION=commit NAME=talks.jsonl",
        f"SOURCE={tmp_path}/data/forum.json",
    ]


def test_without_dataset_info_the_names_of_the_rows_are_left(tmp_path: Path) -> None:
    _, found, _ = convert(tmp_path, "sft.yaml")
    assert found.left["dataset"].startswith("other meaning: names entries of dataset_info.json")


def test_unsloth_means_the_same_as_yaml_notebook_and_command_line(tmp_path: Path) -> None:
    ours, found, off = convert(tmp_path, "studio.yaml")
    assert ours["base.id"] == "ours/model-1b"
    assert found.left["model (4 bits)"].startswith("other meaning: merge needs the weights in 16 bits")
    assert (ours["train.method"], ours["train.lora.target_modules"]) == ("qlora", ["q_proj", "v_proj"])
    assert (ours["train.batch_size"], ours["train.sft.num_train_epochs"], ours["train.seed"]) == (16, 2, 3407)
    assert found.left["use_loftq"].startswith("unsupported: ")
    assert off == ["enable_wandb"]

    ours, found, _ = convert(tmp_path, "notebook.yaml")
    assert (ours["train.method"], ours["train.batch_size"]) == ("lora", 8)
    assert (ours["train.sft.max_steps"], ours["train.sft.gradient_checkpointing"]) == (60, False)
    assert "train.sft.num_train_epochs" not in ours
    assert found.ours["train", "lora", "r"] == (8, "r")
    assert found.left["random_state"].startswith("not needed: ")
    assert found.left["train_on_completions"].startswith("other meaning: ")

    ours, _, _ = convert(tmp_path, "cli.sh")
    assert (ours["train.method"], ours["train.lora.r"], ours["train.seed"]) == ("qlora", 64, 5)
    assert (ours["train.lora.lora_dropout"], ours["train.lora.use_rslora"]) == (0.1, True)


@pytest.mark.parametrize("name", FILES)
def test_every_key_is_accounted_for(tmp_path: Path, name: str) -> None:
    _, found, off = convert(tmp_path, name)
    given = read_settings(tmp_path / name)
    keys = {
        inner
        for key, value in given.items()
        for inner in (value if name == "studio.yaml" and isinstance(value, dict) else [key])
    }
    named = " ".join([*(source for _, source in found.ours.values()), *found.left, *off])
    silent = {"stage", "data", "quantization_method", "train_on_completions", "dataset", "datasets", "local_dataset"}
    assert [key for key in keys - silent if key not in named] == []


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.yml", "base_model: x/y\nrl: dpo\n", "a.yml: dpo: only supervised fine-tuning on answers is done here"),
        (
            "a.yml",
            "base_model: x/y\nadapter: oft\n",
            "a.yml: adapter: oft: only lora, qlora and full fine-tuning here",
        ),
        (
            "b.yaml",
            "model_name_or_path: x/y\nstage: kto\n",
            "b.yaml: stage: kto: only supervised fine-tuning on answers is done here",
        ),
        (
            "c.yaml",
            "hello: 1\n",
            "c.yaml: not recognised; axolotl names the model base_model, LLaMA-Factory model_name_or_path, and "
            "unsloth model_name, or has the sections training and lora",
        ),
        ("h.yml", "base_model: x\nsequence_len: 2k\n", "h.yml: sequence_len: must be a whole number (got '2k')"),
        ("i.yaml", "r: 8\nmodel_name: [x]\n", "i.yaml: model_name: must be text (got ['x'])"),
        ("d.yaml", "- 1\n", "d.yaml: no settings; name a YAML file of keys and values, or a .sh file"),
        ("e.yaml", "a: [\n", "e.yaml:2: not YAML: expected the node content, but found '<stream end>'"),
        ("f.sh", "echo\n", "f.sh: no command line with options such as --learning_rate 0.0001"),
        (
            "g.sh",
            "llamafactory-cli train --model_name_or_path $MODEL\n",
            "g.sh: --model_name_or_path: the value is a variable of the script; write its value in place of it",
        ),
    ],
)
def test_an_error_is_one_line(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert fail_in(tmp_path, tool.main, name, "--recipes", ROOT / "recipes") == message


def test_a_recipe_is_never_replaced(tmp_path: Path) -> None:
    assert fail_in(ROOT, tool.main, tmp_path / "x.yml", "--write", "phi-4") == (
        "recipes/phi-4.yaml: exists; choose another name, or delete it"
    )
    problem = "must be a name of letters, digits and . _ -, without folders"
    assert fail_in(ROOT, tool.main, tmp_path / "x.yml", "--write", "../x") == f"--write: '../x': {problem}"
    assert fail_in(ROOT, tool.main) == "FILE: missing; name a YAML file of axolotl, LLaMA-Factory or unsloth"


@pytest.mark.parametrize(
    "value", [2e-05, 1e-7, 3.0, "a b", "yes", "<|x|>", 'q"\\', [1, "no"], {"a-b": True, "*": None}, "0x10", "1e5"]
)
def test_a_value_reads_back(tmp_path: Path, value: Any) -> None:
    (tmp_path / "x.yaml").write_text(f"key: {text_of(value)}\n", encoding="utf-8")
    assert read_yaml(tmp_path / "x.yaml") == {"key": value}


@pytest.mark.parametrize("module", [axolotl, llama_factory, unsloth])
def test_every_reason_has_a_kind(module: Any) -> None:
    assert {reason.partition(": ")[0] for reason in module.REASONS.values()} <= set(KINDS)


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_the_recipe_is_valid_for_every_stage(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(FILES[name], encoding="utf-8")
    recipes = shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
    shutil.copy(ROOT / "params.yaml", tmp_path)
    printed = succeed_in(tmp_path, tool.main, name, "--write", "theirs")
    assert printed == (recipes / "theirs.yaml").read_text(encoding="utf-8")
    assert all(len(line) <= 118 for line in printed.splitlines() if line.startswith("#"))
    succeed_in(tmp_path, recipe.main, "theirs")
    load_sections(tmp_path / "params.yaml")
    ours, _, _ = convert(tmp_path, name)
    written = read_yaml(tmp_path / "params.yaml")
    for key, value in ours.items():
        found: Any = written
        for part in key.split("."):
            found = found.get(part, False)
        assert found == value, key


@pytest.mark.slow
def test_what_the_libraries_do_not_have_is_named(tmp_path: Path) -> None:
    text = "base_model: ./y\nadapter: lora\noptimizer: came_pytorch\nlr_scheduler: rex\nlearning_rate: 1e-4\n"
    (tmp_path / "rex.yml").write_text(text, encoding="utf-8")
    printed = succeed_in(ROOT, tool.main, tmp_path / "rex.yml")
    assert "# base.revision is not set: the stage base prints the hash of the folder's files." in printed
    assert "# - optimizer: unsupported: came_pytorch; train.sft.optim stays as it is" in printed
    assert "# - lr_scheduler: unsupported: rex; train.sft.lr_scheduler_type stays as it is" in printed
    text = text.replace("came_pytorch", "adamw_torch").replace("rex", "linear").replace("1e-4", "fast")
    (tmp_path / "rex.yml").write_text(text, encoding="utf-8")
    problem = fail_in(ROOT, tool.main, tmp_path / "rex.yml")
    assert problem.startswith(f"{tmp_path}/rex.yml: its settings do not fit: train.sft.learning_rate: ")
