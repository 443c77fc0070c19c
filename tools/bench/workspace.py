"""Model and rows of the training benchmarks: random weights, and random rows with the lengths of alpaca."""

import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.common import device, tokens
from stages.common.params import load_params
from stages.train.params import TrainParams

if TYPE_CHECKING:
    from stages.train.trainer import Trainer

ROOT = Path(__file__).resolve().parents[2]
SIZES = {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 10, "num_attention_heads": 8}
VOCABULARY, LONGEST = 32_000, 1024
LORA = {"r": 16, "lora_alpha": 32, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}


def make_workspace(folder: Path, rows: int) -> None:
    """Write a model folder and a token file, with row lengths as tools.bench.preprocess has them."""
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


def bench_trainer(folder: Path, batch: int, changes: dict[str, Any] | None = None, **fixed: Any) -> "Trainer":
    """Build the stage's trainer with params.yaml, on the model and rows in `folder`.

    Args:
        folder: the folder of `make_workspace`.
        batch: rows per step, without accumulation.
        changes: changed keys of train.sft.
        fixed: changed keys of train.
    """
    from stages.train.configs import make_configs
    from stages.train.model import load_model
    from stages.train.trainer import make_trainer

    params = ROOT / "params.yaml"
    config = load_params(params, "train", TrainParams)
    machine = config.machine.model_copy(update={"device_batch_size": batch, "report_to": [], "save_steps": 1000})
    sft = config.sft | {"num_train_epochs": 1, "eval_strategy": "no"} | (changes or {})
    config = config.model_copy(update={"batch_size": batch, "machine": machine, "sft": sft} | fixed)
    hardware = device.choose()
    lora, arguments = make_configs(params, config, hardware)
    model = load_model(params, folder / "base", config, hardware, None)
    both = (folder / "train.arrow", folder / "train.arrow")
    return make_trainer(params, config, model, folder / "base", both, lora, arguments, folder)
