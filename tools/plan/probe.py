"""Probe: how fast this machine imports the libraries and runs the model, measured in some seconds.

Passes are measured on the model's own shapes with random weights, on few layers and rows where it has many. The
fastest of some counts. On a CPU it counts by the time of the processor, if that is less: other programs that run now
do not slow down the stages of later.
"""

import copy
import gc
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from stages.common.device import Device

LAYERS = 4  # of a model that has many: what one more takes is a third of the difference between one and four
FLOPS = 2e11  # of a measured pass at most: a second or two of two cores
REPEATS, ENOUGH = 10, 1.5  # of a pass at most, and seconds after which no further one is measured


class Speed(NamedTuple):
    """Seconds of one pass of the whole model.

    Attributes:
        step: forward and backward pass and the optimizer, of a batch of training.
        forward: of a batch of val rows.
        row: of one calibration row.
        token: of the next token of every row in a batch that answers.
    """

    step: float
    forward: float
    row: float
    token: float


def import_libraries() -> float:
    """Import what train imports, and return the seconds that it takes."""

    def run() -> None:
        import peft  # noqa: F401
        import torch  # noqa: F401
        import transformers  # noqa: F401
        import trl  # noqa: F401

    return seconds_of(run)


def seconds_of(run: Callable[[], None], on_gpu: bool = False) -> float:
    """Measure how long a function takes on a machine that does nothing else."""
    begin, worked = time.perf_counter(), time.process_time()
    run()
    passed, worked = time.perf_counter() - begin, time.process_time() - worked
    return passed if on_gpu else min(passed, worked)


def measure_speed(
    config: Any,
    attention: str,
    train: tuple[int, int],
    val: tuple[int, int],
    row: int,
    answers: tuple[int, int],
    make_trained: Callable[[Any], Any],
    device: Device,
) -> Speed:
    """Measure passes of the model.

    Args:
        config: the model's.
        attention: train.attn_implementation.
        train: rows and tokens of a batch of training.
        val: rows and tokens of a batch of val rows.
        row: tokens of a calibration row.
        answers: rows of a batch that answers, and tokens of its prompts.
        make_trained: adds what is trained to a model.
        device: where it computes, and in which dtype.
    """
    layers, on_gpu = config.num_hidden_layers, device.name == "cuda"
    depths = [layers] if layers <= 2 * LAYERS and cost(config, train, layers) <= FLOPS else [1, LAYERS]
    found: list[Speed] = []
    for depth in depths:
        shallow = copy.deepcopy(config)
        shallow.num_hidden_layers = depth
        for key in ("layer_types", "no_rope_layers"):  # one entry for each layer
            if isinstance(getattr(shallow, key, None), list):
                setattr(shallow, key, getattr(shallow, key)[:depth])
        model = random_model(shallow, attention, device)
        plain = [
            scaled(shallow, val, depth, on_gpu, partial(forward_pass, model)),
            scaled(shallow, (1, row), depth, on_gpu, partial(forward_pass, model)),
            scaled(shallow, answers, depth, on_gpu, partial(token_pass, model)),
        ]
        # Last, as it changes the model.
        step = scaled(shallow, train, depth, on_gpu, partial(step_pass, make_trained(model)))
        found.append(Speed(step, *plain))
        del model
        gc.collect()
    if len(found) == 1:
        return found[0]
    first, second = found
    pairs = zip(first, second, strict=True)
    return Speed(*(one + max(0.0, two - one) / (LAYERS - 1) * (layers - 1) for one, two in pairs))


def cost(config: Any, batch: tuple[int, int], layers: int) -> float:
    """Estimate the FLOPs of a training step: 6 per weight and token (arXiv 2001.08361, section 2.1)."""
    hidden = config.hidden_size
    weights = layers * (4 * hidden**2 + 3 * hidden * config.intermediate_size) + hidden * config.vocab_size
    return 6.0 * weights * batch[0] * batch[1]


def scaled(
    config: Any, batch: tuple[int, int], layers: int, on_gpu: bool, prepare: Callable[[int, int], Callable[[], None]]
) -> float:
    """Measure a pass on as many rows as are fast enough, and scale it to all of them."""
    rows, width = batch
    fitting = max(1, min(rows, int(FLOPS / cost(config, (1, width), layers))))
    most = max(1, min(width, int(FLOPS / cost(config, (1, 1), layers)))) if fitting == 1 else width
    run = prepare(fitting, most)
    run()  # warms up
    found, begin = [seconds_of(run, on_gpu)], time.perf_counter()
    while len(found) < REPEATS and time.perf_counter() - begin < ENOUGH:
        found.append(seconds_of(run, on_gpu))
    return min(found) * rows / fitting * width / most


def random_model(config: Any, attention: str, device: Device) -> Any:
    """Build a model with small random weights."""
    import torch
    import transformers

    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(
            config, dtype=device.dtype, attn_implementation=attention
        )
    model = model.to_empty(device=device.name)
    with torch.no_grad():
        for weight in [*model.parameters(), *model.buffers()]:
            if weight.is_floating_point():
                weight.uniform_(-0.02, 0.02)
    return model.eval()


def step_pass(model: Any, rows: int, width: int) -> Callable[[], None]:
    """Prepare a training step."""
    import torch

    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-6, fused=True)
    ids = torch.ones((rows, width), dtype=torch.long, device=model.device)
    few = max(1, width // 8)  # of the logits
    model.train()

    def run() -> None:
        named = {"attention_mask": torch.ones_like(ids), "logits_to_keep": few, "use_cache": False}
        model(input_ids=ids, **named).logits.float().log_softmax(-1)[..., 0].sum().backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        settle(model)

    return run


def forward_pass(model: Any, rows: int, width: int) -> Callable[[], None]:
    """Prepare a forward pass."""
    import torch

    ids = torch.ones((rows, width), dtype=torch.long, device=model.device)

    def run() -> None:
        with torch.inference_mode():
            model(input_ids=ids, attention_mask=torch.ones_like(ids), logits_to_keep=max(1, width // 8))
        settle(model)

    return run


def token_pass(model: Any, rows: int, width: int) -> Callable[[], None]:
    """Prepare the step of an answer: one token of each row, after its prompt."""
    import torch

    ids = torch.ones((rows, width), dtype=torch.long, device=model.device)
    with torch.inference_mode():
        cache = model(input_ids=ids, use_cache=True).past_key_values

    def run() -> None:
        with torch.inference_mode():
            model(input_ids=ids[:, :1], past_key_values=cache, use_cache=True)
        settle(model)

    return run


def settle(model: Any) -> None:
    """Wait for a GPU."""
    import torch

    if model.device.type == "cuda":
        torch.cuda.synchronize()
