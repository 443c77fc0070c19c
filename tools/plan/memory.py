"""Memory: the peak of each stage, from the shapes of the model and the rows, before there are any weights.

train and each forward pass run on shapes alone, as the train stage does it (stages/train/memory.py). What else a
stage holds is counted from its code:

- A model that is loaded on the CPU: its weights in the dtype that the stage computes in, and the pages of the file
  that it is read from, which stay in memory.
- merge and awq, comparing models: five arrays of answer tokens x vocabulary, float32 (`agreement.measure`).
- eval, scoring losses: two arrays of all tokens in the loss of a batch x vocabulary (`transformers_backend.losses`);
  answering: the KV cache of a batch.
- awq: the float32 weights, those of the file, and a second model in the stored dtype while the first is saved.
- A quantised model on the CPU is computed with in float32, and unpacked from 32-bit integers before the first pass:
  eight more bytes per quantised weight until then (measured).

LIBRARIES is what a stage holds beside the model: measured with the built-in model, whose weights take 5 MB.
"""

import copy
from typing import Any, NamedTuple

from stages.awq.params import AwqParams
from stages.base.params import BaseParams
from stages.common.device import Device
from stages.train.params import TrainParams

# Bytes; Python 3.11, the locked libraries, and a CPU build of torch, whose CUDA builds take some 2 GB more.
LIBRARIES = {
    "base": 620e6,
    "preprocess": 200e6,
    "train": 740e6,
    "merge": 635e6,
    "awq": 750e6,
    "eval": 760e6,
    "compare": 150e6,
    "report": 60e6,
}
TEMPORARY = 8  # bytes per quantised weight that unpacking takes on a CPU
QLORA_BITS = 4 + 8 / 64 + 32 / (64 * 256)  # arXiv 2305.14314, section 3: NF4, and quantised constants per 64 weights


class Need(NamedTuple):
    """Bytes that a stage takes at its peak: of this machine's memory, and of a GPU's."""

    host: float
    gpu: float = 0.0


class Shapes(NamedTuple):
    """What the memory of the stages after preprocess follows from.

    Attributes:
        plain: the base model on the meta device, in the dtype of inference.
        stored_bytes: of its weights, as they are stored.
        quantised: weights that awq quantises.
        merge_batch: rows and tokens of the longest batch that merge and awq compare models on.
        merge_loss: tokens in the loss of that batch.
        eval_batch: rows and tokens of the longest batch of losses in eval.
        eval_loss: tokens in the loss of that batch.
        answers: rows of a batch that answers, and tokens of its longest row with its answer.
        calibration_tokens: of all calibration rows.
    """

    plain: Any
    stored_bytes: float
    quantised: float
    merge_batch: tuple[int, int]
    merge_loss: int
    eval_batch: tuple[int, int]
    eval_loss: int
    answers: tuple[int, int]
    calibration_tokens: int


def outline(config: Any, dtype: Any, attention: str = "sdpa") -> Any:
    """Build a model on the meta device."""
    import torch
    import transformers

    with torch.device("meta"):
        return transformers.AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=attention)


def weight_count(model: Any) -> int:
    """Count the weights of a model, tied ones once."""
    return sum(weight.numel() for weight in {id(weight): weight for weight in model.parameters()}.values())


def trained_outline(config: Any, train: TrainParams, lora: Any, arguments: Any, device: Device) -> Any:
    """Build the model that is trained, as load_model and TRL make it, on the meta device."""
    import peft
    import torch

    full = train.method == "full"
    model = outline(config, torch.float32 if full else device.dtype, train.attn_implementation)
    if full:
        return model
    with torch.device("meta"):
        model = peft.get_peft_model(model, copy.deepcopy(lora))
    if arguments.gradient_checkpointing:
        model.enable_input_require_grads()
    return model


def train_need(model: Any, train: TrainParams, arguments: Any, batch: dict[str, Any], stored: float) -> Need:
    """Compute the memory of training: that of its largest step.

    Args:
        model: from `trained_outline`.
        train: the section train.
        arguments: the trainer's config.
        batch: what the collator makes of the largest batch.
        stored: bytes of the base model's files.
    """
    from stages.train.memory import peak_bytes

    kept, step = peak_bytes(model, arguments, batch)
    if train.method == "qlora":
        linear = sum(one.weight.numel() for one in base_layers(model))
        kept -= round(linear * (2 - QLORA_BITS / 8))
    if arguments.use_cpu:
        return Need(LIBRARIES["train"] + kept + max(step, stored))  # the file's pages leave before the first step
    return Need(LIBRARIES["train"] + stored, kept + step)


def base_layers(model: Any) -> list[Any]:
    """List the linear layers that QLoRA quantises: all but the output layer."""
    import torch

    head = model.get_output_embeddings()
    found = [one for name, one in model.named_modules() if isinstance(one, torch.nn.Linear) and "lora_" not in name]
    return [one for one in found if one is not head]


def forward_bytes(model: Any, batch: tuple[int, int], places: int) -> int:
    """Compute what a forward pass holds at its peak beside the weights.

    Args:
        model: on the meta device.
        batch: rows and tokens.
        places: the positions at which logits are computed.
    """
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    from stages.common.batches import output_at
    from stages.train.memory import LiveBytes, without_data

    with FakeTensorMode():
        copied, shapes = without_data(model)
        ids = torch.zeros(batch, dtype=torch.long)
        chosen = torch.zeros(max(1, places), dtype=torch.long)
        live = LiveBytes([*shapes, ids, chosen])
        with live, torch.no_grad(), output_at(copied, chosen):
            copied(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
    return live.peak


def cache_bytes(config: Any, rows: int, width: int, size: int) -> int:
    """Compute the bytes of a KV cache: keys and values of each layer, head and token."""
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width_of = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 2 * config.num_hidden_layers * heads * width_of * rows * width * size


def later_needs(shapes: Shapes, device: Device) -> dict[str, Need]:
    """Compute the memory of merge, awq and eval."""
    config = shapes.plain.config.get_text_config()
    weights, vocabulary = weight_count(shapes.plain), config.vocab_size
    size = 2 if device.name == "cuda" else 4
    loaded = weights * size
    logits = 4 * vocabulary
    compared = max(
        5 * shapes.merge_loss * logits,
        forward_bytes(shapes.plain, shapes.merge_batch, shapes.merge_loss) + shapes.merge_loss * logits,
    )
    scored = max(
        2 * shapes.eval_loss * logits,
        forward_bytes(shapes.plain, shapes.eval_batch, shapes.eval_loss) + shapes.eval_loss * logits,
    )
    answered = cache_bytes(config, *shapes.answers, size) + 3 * shapes.answers[0] * logits
    worked = max(scored, answered)
    unpacked = TEMPORARY * shapes.quantised
    largest = 4 * max((one.weight.numel() for one in base_layers(shapes.plain)), default=0)
    proof = 4 * largest  # the float32 merge of a layer, what is stored, their difference, units in the last place
    cached = 4 * 4 * shapes.calibration_tokens * config.intermediate_size  # inputs and outputs of a layer's parts
    if device.name == "cuda":
        on_gpu = {"merge": loaded + compared, "eval": loaded + worked, "awq": loaded + max(compared, cached)}
        host = {"merge": shapes.stored_bytes, "eval": shapes.stored_bytes, "awq": 4 * weights + shapes.stored_bytes}
        return {name: Need(LIBRARIES[name] + host[name], on_gpu[name]) for name in on_gpu}
    file = shapes.stored_bytes
    merge = loaded + file + max(compared, proof)
    saved = 4 * weights + file + 2 * weights  # the float32 model, its file, and the copy that is written
    awq = max(saved, 4 * weights + file + cached, loaded + unpacked + compared)
    evaluated = loaded + file + worked
    return {
        "merge": Need(LIBRARIES["merge"] + merge),
        "awq": Need(LIBRARIES["awq"] + awq),
        "eval": Need(LIBRARIES["eval"] + evaluated),
        "eval@awq": Need(LIBRARIES["eval"] + loaded + file + max(worked, unpacked)),
    }


def base_need(config: BaseParams, weights: int, stored: float) -> Need:
    """Compute the memory of base: a training of all weights, or a GGUF file's in float32 and as stored, or files."""
    if config.source == "tiny":
        return Need(LIBRARIES["base"] + 4 * 4 * weights + 4 * weights)
    if config.source == "gguf":
        return Need(LIBRARIES["base"] + 4 * weights + stored)
    return Need(LIBRARIES["base"])


def quantised_weights(model: Any, config: AwqParams) -> tuple[float, float]:
    """Count the weights that awq quantises, and the bytes that all tensors then take.

    Raises:
        click.ClickException: see `select_layers`.
    """
    from compressed_tensors.quantization import preset_name_to_scheme

    from stages.awq.schemes import choose_group_size, input_widths, layer_bytes, select_layers

    layers = select_layers(model, config)
    scheme = preset_name_to_scheme(config.scheme, targets=["Linear"])
    if config.group_size:
        scheme.weights.group_size = choose_group_size(input_widths(layers), config.group_size)
    replaced = {id(layer.weight) for layer in layers.values()}
    weights = {id(weight): weight for weight in model.parameters()}
    kept = sum(weight.numel() * weight.element_size() for key, weight in weights.items() if key not in replaced)
    packed = sum(layer_bytes(layer.weight, scheme) for layer in layers.values())
    return sum(layer.weight.numel() for layer in layers.values()), kept + packed
