"""Train: LoRA on every linear layer and nothing else, the loss on the assistant's words alone, the same bytes again.

Most of it is read off the adapter, scores and curves of the session's one training run.
"""

import json
import math
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import pyarrow as pa
import pytest

from stages import merge
from stages import train as stage
from stages.common import chat, device, files, settings, tokens

if TYPE_CHECKING:
    from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def weights(folder: Path) -> "dict[str, Tensor]":
    from safetensors.torch import load_file

    return load_file(folder / "adapter_model.safetensors")


def scores(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "metrics" / "train.json").read_text(encoding="utf-8"))


def curve(folder: Path, name: str) -> dict[int, float]:
    text = (folder / "metrics" / "train" / "plots" / "metrics" / f"{name}.tsv").read_text(encoding="utf-8")
    header, *rows = [line.split("\t") for line in text.splitlines()]
    assert header == ["step", name]
    points = {int(step): float(value) for step, value in rows}
    assert list(points) == sorted(points)
    assert len(points) == len(rows)
    return points


@pytest.fixture
def learn(
    params: Callable[..., Path], succeed: Callable[..., str], prepared: Path, base: Path
) -> Callable[..., Path]:
    """Train in tmp_path on the session's rows with other params, and give the folder."""

    def learn(changes: dict[str, Any]) -> Path:
        folder = params(changes).parent
        rows = ("--train", prepared / "train.arrow", "--val", prepared / "val.arrow")
        succeed(stage.main, "--base", base, *rows)
        return folder

    return learn


@pytest.fixture
def refuse(params: Callable[..., Path], fail: Callable[..., str], prepared: Path, base: Path) -> Callable[..., str]:
    """Train with params that cannot work, and give the message; nothing may be left."""

    def refuse(changes: dict[str, Any]) -> str:
        folder = params(changes).parent
        rows = ("--train", prepared / "train.arrow", "--val", prepared / "val.arrow")
        message = fail(stage.main, "--base", base, *rows)
        written = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
        assert not [path for path in written if path.parts[0] not in ("params.yaml", ".scratch", "metrics")]
        assert not (folder / "metrics" / "train.json").exists()
        return message

    return refuse


def test_every_linear_layer_and_nothing_else_is_adapted(adapter: Path, base: Path) -> None:
    from safetensors import safe_open

    with safe_open(base / "model.safetensors", framework="pt") as file:
        layers = {
            name.removesuffix(".weight"): file.get_slice(name).get_shape()
            for name in file.keys()  # noqa: SIM118  not a dict
            if name.endswith(".weight") and name.split(".")[-2] in LINEAR
        }
    assert len(layers) == 2 * 7
    expected = {}
    for name, (height, width) in layers.items():
        expected[f"base_model.model.{name}.lora_A.weight"] = (4, width)
        expected[f"base_model.model.{name}.lora_B.weight"] = (height, 4)
    assert {name: tuple(weight.shape) for name, weight in weights(adapter).items()} == expected
    config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["target_modules"] == sorted(layers)
    assert (config["r"], config["lora_alpha"], config["task_type"]) == (4, 8, "CAUSAL_LM")


def test_only_the_adapter_is_trained(adapter: Path, workspace: Path, base: Path) -> None:
    trained = weights(adapter)
    found = scores(workspace)
    assert found["trainable_parameters"] == sum(weight.numel() for weight in trained.values())
    assert all(weight.abs().sum() > 0 for weight in trained.values())
    manifest = json.loads((base / "manifest.json").read_text(encoding="utf-8"))
    assert {name: files.sha256(base / name) for name in manifest["files"]} == manifest["files"]


def test_the_labels_of_every_batch_are_the_learnt_ids(
    params: Callable[..., Path], prepared: Path, base: Path, tmp_path: Path
) -> None:
    import transformers

    from stages.common import training

    prepared_rows = tokens.read(prepared / "val.arrow")
    rows = [*prepared_rows, tokens.TokenRow([5, 6, 7], [1, 1, 1]), tokens.TokenRow([5, 8, 9, 8], [0, 1, 0, 1])]
    with pa.OSFile(str(tmp_path / "rows.arrow"), "wb") as sink, pa.ipc.new_stream(sink, tokens.SCHEMA) as writer:
        columns = [[row.ids for row in rows], [row.mask for row in rows]]
        writer.write_table(pa.table(columns, schema=tokens.SCHEMA), max_chunksize=4)
    file, place = params(), device.choose()
    config = settings.load(file, "train", stage.TrainParams)
    lora, arguments = training.configs(file, config, place)
    model = transformers.AutoModelForCausalLM.from_pretrained(base)
    both = (tmp_path / "rows.arrow", tmp_path / "rows.arrow")
    trainer = training.make_trainer(file, config, model, base, both, lora, arguments, tmp_path)
    for batches in (trainer.get_eval_dataloader(), trainer.get_train_dataloader()):
        found = []
        for batch in batches:
            assert set(batch) == {"attention_mask", "input_ids", "labels"}
            for ids, seen, labels in zip(*(batch[key].tolist() for key in sorted(batch)), strict=True):
                length = sum(ids)
                assert (ids, labels[length:]) == ([1] * length + [0] * len(ids[length:]), [-100] * len(ids[length:]))
                found.append((seen[:length], labels[:length]))
        expected = [
            (row.ids, [token if learnt else -100 for token, learnt in zip(*row, strict=True)]) for row in rows
        ]
        assert sorted(found) == sorted(expected)


def test_the_assistants_text_and_its_stop_token_are_learnt(prepared: Path, base: Path) -> None:
    tokenizer = chat.load(base).tokenizer
    rows = files.read_rows(prepared / "val.jsonl")
    for row, labels in zip(rows, tokens.dataset(prepared / "val.arrow")["labels"], strict=True):
        learnt = [label for label in labels if label != -100]
        answer = tokenizer.decode(learnt, skip_special_tokens=False)
        assert answer == row["messages"][-1]["content"] + "<|im_end|>"


def test_the_loss_is_that_of_the_answers_alone(adapter: Path, workspace: Path, prepared: Path, base: Path) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), adapter).eval()
    losses = []
    for row in files.read_rows(prepared / "val.jsonl"):
        encoded = tokenizer.apply_chat_template(
            row["messages"], return_dict=True, return_assistant_tokens_mask=True, return_tensors="pt"
        )
        with torch.inference_mode():
            logits = model(encoded["input_ids"]).logits[0, :-1]
        chosen = torch.as_tensor(encoded["assistant_masks"]).reshape(-1)[1:].bool()
        targets = encoded["input_ids"][0, 1:]
        losses.append(torch.nn.functional.cross_entropy(logits[chosen], targets[chosen], reduction="none"))
    assert scores(workspace)["eval_loss"] == pytest.approx(torch.cat(losses).mean().item(), abs=2e-6)


def test_the_scores_count_rows_tokens_and_steps(adapter: Path, workspace: Path, prepared: Path) -> None:
    found = scores(workspace)
    train, val = (tokens.read(prepared / f"{name}.arrow") for name in ("train", "val"))
    assert (found["rows_train"], found["rows_val"]) == (len(train), len(val))
    assert found["steps"] == math.ceil(len(train) / 8)
    assert found["supervised_tokens"] == sum(sum(row.mask) for row in train)
    assert found["total_parameters"] > 10 * found["trainable_parameters"]


def test_the_curves_count_optimizer_steps(adapter: Path, workspace: Path) -> None:
    steps = scores(workspace)["steps"]
    logged = list(range(2, steps + 1, 2))
    assert [list(curve(workspace, name)) for name in ("loss", "learning_rate", "grad_norm")] == [logged] * 3
    assert list(curve(workspace, "eval_loss")) == [steps]
    assert curve(workspace, "eval_loss")[steps] == pytest.approx(scores(workspace)["eval_loss"], abs=1e-6)
    assert {path.name for path in (workspace / "metrics" / "train").iterdir()} == {"metrics.json", "plots"}


def test_another_process_trains_the_same_bytes(adapter: Path, workspace: Path, tmp_path: Path) -> None:
    for name in ("params.yaml", "data"):
        (tmp_path / name).symlink_to(workspace / name)
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "base").symlink_to(workspace / "models" / "base")
    # Sets of strings come in another order there.
    environment = os.environ | {"PYTHONHASHSEED": "1", "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-m", "stages.train"], cwd=tmp_path, env=environment, check=True, timeout=300)
    assert files.hashes(tmp_path / "models" / "adapter") == files.hashes(adapter)
    assert files.hashes(tmp_path / "metrics" / "train") == files.hashes(workspace / "metrics" / "train")
    assert scores(tmp_path) == scores(workspace)


def test_no_output_holds_a_path_or_a_host(adapter: Path, workspace: Path) -> None:
    assert {path.name for path in adapter.iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "base.json",
    }
    for folder in (adapter, workspace / "metrics"):
        for path in folder.rglob("*"):
            content = path.read_bytes() if path.is_file() else b""
            for private in (str(workspace), str(ROOT), str(Path.home()), f'"{socket.gethostname()}"'):
                assert private.encode() not in content, (path, private)


def test_accumulating_a_batch_trains_alike(adapter: Path, workspace: Path, learn: Callable[..., Path]) -> None:
    import torch

    folder = learn({"train.machine.device_batch_size": 8})
    assert curve(folder, "loss") == pytest.approx(curve(workspace, "loss"), abs=1e-4)
    # The Trainer's mean over val is one of batches, so it moves a little with their size.
    assert scores(folder) == pytest.approx(scores(workspace), rel=1e-2)
    whole, parts = weights(folder / "models" / "adapter"), weights(adapter)
    for name, weight in whole.items():
        torch.testing.assert_close(weight, parts[name], rtol=0.05, atol=2e-4)


def test_the_params_reach_the_libraries(learn: Callable[..., Path]) -> None:
    changes = {
        "train.lora.r": 2,
        "train.lora.lora_alpha": 3,
        "train.lora.use_rslora": True,
        "train.lora.target_modules": ["up_proj", "q_proj"],
        "train.lora.exclude_modules": ["model.layers.1.mlp.up_proj"],
        "train.sft.max_steps": 1,
        "train.sft.learning_rate": 0.5,
        "train.sft.logging_steps": 1,
        "train.sft.lr_scheduler_type": "constant",
        "train.sft.eval_strategy": "no",
    }
    folder = learn(changes)
    trained = weights(folder / "models" / "adapter")
    assert {tuple(name.split(".")[-4:-2]) for name in trained} == {
        ("self_attn", "q_proj"),
        ("mlp", "up_proj"),
    }
    assert len(trained) == 2 * 3
    assert all(2 in weight.shape for weight in trained.values())
    config = json.loads((folder / "models" / "adapter" / "adapter_config.json").read_text(encoding="utf-8"))
    assert (config["lora_alpha"], config["use_rslora"]) == (3, True)
    assert config["target_modules"] == ["q_proj", "up_proj"]
    assert curve(folder, "learning_rate") == {1: 0.5}
    assert list(curve(folder, "eval_loss")) == [1]  # what the scores need, whatever the schedule


def test_a_pattern_of_modules_stays_a_pattern(learn: Callable[..., Path]) -> None:
    folder = learn({"train.lora.target_modules": ".*q_proj", "train.sft.max_steps": 1})
    config = json.loads((folder / "models" / "adapter" / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["target_modules"] == ".*q_proj"


@pytest.mark.parametrize(
    ("batch_size", "device_batch_size", "world_size", "expected"),
    [
        (32, 32, 1, (32, 1)),
        (32, 64, 1, (32, 1)),
        (32, 8, 1, (8, 4)),
        (32, 5, 1, (4, 8)),
        (32, 8, 2, (8, 2)),
        (32, 8, 4, (8, 1)),
        (32, 8, 32, (1, 1)),
        (7, 4, 1, (1, 7)),
        (1, 1, 1, (1, 1)),
    ],
)
def test_the_global_batch_is_split_exactly(
    batch_size: int, device_batch_size: int, world_size: int, expected: tuple[int, int]
) -> None:
    from stages.common import training

    size, accumulation = training.split_batch(batch_size, device_batch_size, world_size)
    assert (size, accumulation) == expected
    assert size * accumulation * world_size == batch_size
    assert size <= device_batch_size


@pytest.mark.parametrize(("batch_size", "world_size"), [(32, 3), (2, 4)])
def test_a_batch_that_cannot_be_split_is_an_error(batch_size: int, world_size: int) -> None:
    from stages.common import training

    with pytest.raises(click.ClickException) as raised:
        training.split_batch(batch_size, 8, world_size)
    assert raised.value.message == f"train.batch_size {batch_size} does not divide by {world_size} processes"


def test_the_number_of_processes_comes_from_the_launcher(
    refuse: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert refuse({}) == "train.batch_size 8 does not divide by 3 processes"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train.lora.target_modules": ["q_porj"]}, r"Target modules \{'q_porj'\} not found in the base model"),
        ({"train.lora.r": 0}, "`r` should be a positive integer value but the value passed is 0"),
    ],
)  # fmt: skip
def test_settings_that_cannot_work_leave_nothing(
    refuse: Callable[..., str], changes: dict[str, Any], message: str
) -> None:
    assert re.match(f"params.yaml: train: {message}", refuse(changes))


@pytest.mark.parametrize(
    ("key", "value"), [("init_lora_weights", "pissa"), ("target_parameters", ["mlp.down_proj.weight"])]
)
def test_an_adapter_that_could_not_be_merged_is_not_trained(refuse: Callable[..., str], key: str, value: Any) -> None:
    said = refuse({f"train.lora.{key}": value})
    assert said == f"params.yaml: train.lora: {key}: {value!r} cannot be merged; train without it"


def test_a_loss_that_explodes_names_step_and_rows(refuse: Callable[..., str]) -> None:
    message = refuse(
        {
            "train.sft.learning_rate": 1e30,
            "train.sft.max_grad_norm": 0.0,
            "train.sft.num_train_epochs": 3,
            "train.machine.device_batch_size": 2,
            "train.machine.save_steps": 1,
        }
    )
    pattern = (
        r"params\.yaml: train: the loss is (nan|[\d.e+]+) at step (\d+), in a batch of the rows "
        r"rows\.jsonl:\d+, rows\.jsonl:\d+; look at them, lower train\.sft\.learning_rate or raise its warmup_steps "
        r"\(it goes on after step (\d+) with params as they are\)"
    )
    match = re.fullmatch(pattern, message)
    assert match, message
    assert int(match[3]) == int(match[2]) - 1


def test_every_weight_is_trained_and_merged(
    learn: Callable[..., Path], succeed: Callable[..., str], base: Path, prepared: Path
) -> None:
    from safetensors.torch import load_file

    folder = learn({"train.method": "full", "train.sft.learning_rate": 0.0005})
    found, before = (load_file(path / "model.safetensors") for path in (folder / "models" / "adapter", base))
    assert {name: (part.shape, part.dtype) for name, part in found.items()} == {
        name: (part.shape, part.dtype) for name, part in before.items()
    }
    # Not biases and norms: of so few steps some are lost when weights are rounded to bfloat16.
    assert all(not part.equal(before[name]) for name, part in found.items() if part.ndim == 2)
    assert scores(folder)["trainable_parameters"] == scores(folder)["total_parameters"]
    succeed(merge.main, "--base", base, "--val", prepared / "val.arrow")
    merged = load_file(folder / "models" / "merged" / "model.safetensors")
    assert all(part.equal(found[name]) for name, part in merged.items())
    measured = json.loads((folder / "metrics" / "merge.json").read_text(encoding="utf-8"))
    assert (measured["top1_agreement"], measured["kl_max"]) == (1.0, 0.0)


def test_four_bits_need_a_gpu(refuse: Callable[..., str]) -> None:
    if device.choose().name == "cuda":
        pytest.skip("a GPU is here, so there is nothing to refuse")
    message = refuse({"train.method": "qlora"})
    assert message.startswith("params.yaml: train.method: qlora needs an NVIDIA GPU (no GPU visible; ")
    assert message.endswith("); use lora here")


@pytest.fixture
def worse(learn: Callable[..., Path]) -> Callable[..., Path]:
    """Train so that the loss on val falls, then rises: the learning rate is far too great in the end."""

    def worse(changes: dict[str, Any]) -> Path:
        rates: dict[str, Any] = {
            "learning_rate": 1.0,
            "lr_scheduler_type": "constant_with_warmup",
            "warmup_steps": 30,
        }
        rates |= {"num_train_epochs": 8}
        return learn({f"train.sft.{key}": value for key, value in rates.items()} | changes)

    return worse


def test_the_best_weights_are_kept(worse: Callable[..., Path], adapter: Path) -> None:
    folder = worse({"train.keep": "best"})
    losses = curve(folder, "eval_loss")
    best = min(losses, key=lambda step: losses[step])
    assert best < list(losses)[-1]
    assert scores(folder)["eval_loss"] == pytest.approx(losses[best], abs=1e-6)
    kept = weights(folder / "models" / "adapter")
    last = weights(worse({}) / "models" / "adapter")
    assert any(not kept[name].equal(last[name]) for name in kept)
    stopped = worse({"train.sft.max_steps": best, "train.sft.eval_strategy": "no"})
    assert all(part.equal(kept[name]) for name, part in weights(stopped / "models" / "adapter").items())


def test_it_stops_early_when_val_no_longer_gains(worse: Callable[..., Path]) -> None:
    losses = curve(worse({"train.early_stopping": 1}), "eval_loss")
    steps = list(losses)
    assert len(steps) < 8
    assert losses[steps[-1]] >= losses[steps[-2]] == min(losses.values())


def test_it_starts_from_an_adapter(learn: Callable[..., Path], params: Callable[..., Path], adapter: Path) -> None:
    start = params().parent / "data" / "start" / "mine"
    shutil.copytree(adapter, start)
    changes = {"train.sft.learning_rate": 1e-9, "train.sft.max_steps": 1, "train.resume_from": "mine"}
    folder = learn(changes)
    before, after = weights(start), weights(folder / "models" / "adapter")
    assert all(part.allclose(after[name], atol=1e-6) for name, part in before.items())


def test_an_adapter_of_other_shape_is_refused(
    refuse: Callable[..., str], params: Callable[..., Path], adapter: Path
) -> None:
    start = params().parent / "metrics" / "start" / "mine"
    shutil.copytree(adapter, start)
    (params().parent / "data").mkdir(exist_ok=True)
    (params().parent / "data" / "start").symlink_to(start.parent)
    message = refuse({"train.resume_from": "mine", "train.lora.r": 8})
    assert message == "params.yaml: train.lora.r: 8, but the adapter in data/start/mine has 4"


def test_rows_of_like_length_share_a_batch() -> None:
    from stages.common.sampler import GroupedByLength

    lengths = [number % 97 for number in range(1000)]
    sampler = GroupedByLength(lengths, 8, seed=7)
    first, again = list(sampler), list(sampler)
    assert first == again
    assert sorted(first) == list(range(1000))
    assert max(lengths[row] for row in first[:8]) == 96
    groups = [[lengths[row] for row in first[start : start + 8]] for start in range(0, 1000, 8)]
    assert sum(max(group) * len(group) for group in groups) < 1.1 * sum(lengths)
    tops = [max(group) for group in groups[1:50]]
    assert tops != sorted(tops, reverse=True)
    sampler.set_epoch(1)
    assert list(sampler) != first


def test_two_processes_train_alike(learn: Callable[..., Path], prepared: Path, base: Path, tmp_path: Path) -> None:
    # The last batch of an epoch is not whole: two processes fill it up with rows from its start.
    changes = {"train.machine.device_batch_size": 8, "train.sft.logging_steps": 1, "train.sft.max_steps": 5}
    alone = curve(learn(changes), "loss")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = ["torchrun", "--standalone", "--nproc-per-node", "2", "-m", "stages.train", "--base", str(base)]
    command += ["--train", str(prepared / "train.arrow"), "--val", str(prepared / "val.arrow"), "--out", "two"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert curve(tmp_path, "loss") == pytest.approx(alone, rel=2e-3)
    assert {path.name for path in (tmp_path / "two").iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "base.json",
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "models/base: no such file or folder; run `dvc repro base` first"),
        (("--base", "BASE"), "data/prepared/train.arrow: no such file or folder; run `dvc repro` first"),
        (
            ("--base", "BASE", "--train", "empty"),
            "empty: not a token file of the preprocess stage; run `dvc repro preprocess`",
        ),
    ],
)
def test_missing_inputs_are_named(
    params: Callable[..., Path], fail: Callable[..., str], base: Path, arguments: tuple[str, ...], message: str
) -> None:
    (params().parent / "empty").write_text("")
    assert fail(stage.main, *(base if part == "BASE" else part for part in arguments)) == message


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train.attn_implementation": "flash_attention_2"}, "train: FlashAttention2 .* seem to be installed"),
        ({"train.attn_implementation": "flex_attention"}, "train: FlexAttention does not support backward on CPU"),
        ({"train.sft.use_liger_kernel": True}, "train: You have set `use_liger_kernel` .* not available"),
        ({"train.sft.optim": "adamw_8bit"}, "train: You need to install `bitsandbytes`"),
        ({"train.sft.activation_offloading": True}, "train.sft.activation_offloading: needs a GPU"),
        ({"train.machine.report_to": ["wandb"]}, r"train.machine.report_to: wandb is not installed; run .* wandb`"),
        ({"train.sft.packing_strategy": "wrapped"}, "train.sft.packing_strategy: set by the stage itself"),
        ({"train.sft.max_length": 64}, "train.sft.max_length: set by the stage itself"),
    ],
)  # fmt: skip
@pytest.mark.skipif(device.choose().name == "cuda", reason="a GPU machine has what is missing here")
def test_what_this_machine_lacks_is_one_line(
    refuse: Callable[..., str], changes: dict[str, Any], message: str
) -> None:
    found = refuse(changes)
    assert re.match(f"params.yaml: {message}", found), found
    assert "\n" not in found
