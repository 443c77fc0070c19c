"""Workspace: what the training benchmarks train: a model of random weights, and rows with alpaca's lengths."""

import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.common import device, settings, tokens
from stages.train import TrainParams

if TYPE_CHECKING:
    from stages.common.trainer import Trainer

ROOT = Path(__file__).resolve().parents[2]
SIZES = {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 10, "num_attention_heads": 8}
VOCABULARY, LONGEST = 32_000, 1024


def make_workspace(folder: Path, rows: int) -> None:
    """Write a model of random weights and rows of random tokens, with the lengths of tools.bench.preprocess."""
    import pyarrow as pa
    import torch
    from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(7)
    shape = {**SIZES, "num_key_value_heads": 8, "vocab_size": VOCABULARY, "max_position_embeddings": LONGEST}
    Qwen2ForCausalLM(Qwen2Config(**shape, tie_word_embeddings=True)).save_pretrained(folder / "base")
    AutoTokenizer.from_pretrained(ROOT / "models" / "base").save_pretrained(folder / "base")
    rng = random.Random(7)
    lengths = [min(LONGEST, 30 + round(rng.lognormvariate(4.04, 1.0) * 4 / 3)) for _ in range(rows)]
    ids = [[rng.randrange(3, 1000) for _ in range(length)] for length in lengths]
    masks = [[0] * 20 + [1] * (length - 20) for length in lengths]
    with pa.ipc.new_stream(str(folder / "train.arrow"), tokens.SCHEMA) as out:
        out.write_batch(pa.record_batch([ids, masks], schema=tokens.SCHEMA))


def make_trainer(folder: Path, batch: int, changes: dict[str, Any] | None = None, **fixed: Any) -> "Trainer":
    """Build the stage's trainer with the params of the repository, on the model in `folder`.

    Args:
        folder: what `make_workspace` filled.
        batch: rows per step, all at once on the device.
        changes: other keys of train.sft.
        fixed: other keys of train.
    """
    from stages.common import method, training

    params = ROOT / "params.yaml"
    config = settings.load(params, "train", TrainParams)
    machine = config.machine.model_copy(update={"device_batch_size": batch, "report_to": [], "save_steps": 1000})
    sft = config.sft | {"num_train_epochs": 1, "eval_strategy": "no"} | (changes or {})
    config = config.model_copy(update={"batch_size": batch, "machine": machine, "sft": sft} | fixed)
    place = device.choose()
    lora, arguments = training.configs(params, config, place)
    model = method.load(params, folder / "base", config, place, None)
    both = (folder / "train.arrow", folder / "train.arrow")
    return training.make_trainer(params, config, model, folder / "base", both, lora, arguments, folder)
