"""Proof: the merged weights are the float32 merge, rounded to what they are stored in: nothing else is lost.

The float32 merge is PEFT's, layer by layer, from the model that is loaded to be compared; stages/merge/delta.py
computes it by itself.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.merge.tensors import list_tensors

if TYPE_CHECKING:
    import torch

MANTISSA = {"BF16": 7, "F16": 10, "F32": 23}  # bits
SMALLEST = {"BF16": -126, "F16": -14, "F32": -126}  # exponent of the smallest number with a full mantissa
SLACK = 1e-5  # of the largest change in a tensor: two float32 products may add in another order


def misplaced(trained: Any, merged: Path, nearest: bool) -> dict[str, int]:
    """Count merged weights that are not the float32 merge, rounded.

    Args:
        trained: the base model with its adapter, from `agreement.load_trained`.
        merged: the folder of the merged model.
        nearest: whether it is rounded to the nearest number, and not to one of the two beside it.

    Returns:
        `checked_tensors`: those of plain LoRA layers; `misplaced_weights`, the numbers in them that are more than a
        unit in the last place away, or than half of one.
    """
    import torch

    stored = {tensor.name: tensor for tensor in list_tensors(merged)}
    checked = wrong = 0
    for name, exact, slack in float32_merges(trained):
        tensor = stored.get(name)
        if tensor is None:  # a tied matrix under the name of its other use
            continue
        found = torch.from_numpy(tensor.read())
        unit = torch.exp2(exact.abs().log2().floor().clamp(min=SMALLEST[tensor.dtype]) - MANTISSA[tensor.dtype])
        wrong += int(((found - exact).abs() > (unit / 2 if nearest else unit) + slack).sum())
        checked += 1
    return {"checked_tensors": checked, "misplaced_weights": wrong}


def float32_merges(trained: Any) -> "Iterator[tuple[str, torch.Tensor, float]]":
    """Yield the name of each plain LoRA layer's weight, the float32 merge of it, and the slack to compare with."""
    from peft.tuners.lora import Linear

    for path, layer in trained.named_modules():
        if not isinstance(layer, Linear) or layer.use_dora.get("default"):
            continue
        delta = layer.get_delta_weight("default").detach().float().cpu()
        name = path.removeprefix("base_model.model.") + ".weight"
        yield name, layer.get_base_layer().weight.detach().float().cpu() + delta, SLACK * float(delta.abs().max())
