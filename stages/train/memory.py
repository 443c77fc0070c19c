"""Memory: the peak of a training step, found by running one on tensors that have shapes but no data.

PyTorch's FakeTensorMode runs every operation of forward and backward pass on shapes alone, in seconds and without
memory. Each result counts as long as the step holds it, so attention, checkpointing, packing, DoRA and a loss in
pieces need no formula of their own. The model may itself be without data: the stage hands in the one that it trains,
`make plan` one on torch's meta device.
"""

import copy
import weakref
from collections.abc import Iterable
from contextlib import nullcontext
from typing import Any

import peft
import torch
import trl
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers.trainer_pt_utils import LabelSmoother
from trl.trainer.utils import add_fused_lm_head

from stages.common import batches
from stages.train.data import GroupedByLength
from stages.train.trainer import labelled_places

ADAMW_BYTES = 8  # per trainable weight: two moments in float32


def peak_bytes(model: Any, arguments: trl.SFTConfig, batch: dict[str, Any]) -> tuple[int, int]:
    """Compute the memory of a batch's step.

    For a GPU the operations of the CPU stand for its own: what they keep has the same shapes.

    Args:
        model: as it is trained; its weights may be on the meta device.
        arguments: the trainer's config.
        batch: what the trainer's collator makes of the rows, see `largest_batch`.

    Returns:
        Bytes of weights and of the optimizer's state, and those of gradients and activations at the peak, beside
        them. Libraries, and memory that the allocator keeps unused, are not part of it.
    """
    weights = list({id(weight): weight for weight in [*model.parameters(), *model.buffers()]}.values())
    kept = sum(weight.numel() * weight.element_size() for weight in weights)
    kept += ADAMW_BYTES * sum(weight.numel() for weight in weights if weight.requires_grad)
    if arguments.use_cpu and not arguments.label_smoothing_factor:
        batch = batch | labelled_places(batch["labels"])  # what depends on data is found here
    with FakeTensorMode():
        outline, shapes = without_data(model)
        _bind(outline, arguments)
        inputs = {name: shaped(value) for name, value in batch.items() if isinstance(value, torch.Tensor)}
        live = LiveBytes([*shapes, *inputs.values()])
        autocast = torch.autocast("cpu", torch.bfloat16) if arguments.bf16 else nullcontext()
        with live, autocast:
            loss = _loss(outline.train(), batch | inputs | {"use_cache": False}, arguments)
        with live:
            loss.backward()
    return kept, live.peak


def largest_batch(sampler: GroupedByLength, arguments: trl.SFTConfig) -> list[int]:
    """Return the places of the rows in the forward pass with the most tokens, padding included.

    Where the order is not ours, it is that of the longest rows, as they may come together.
    """
    lengths, size = sampler.lengths, arguments.per_device_train_batch_size
    if arguments.train_sampling_strategy != "group_by_length":
        return sorted(range(len(lengths)), key=lambda place: -lengths[place])[:size]
    order = list(sampler)
    groups = [order[start : start + size] for start in range(0, len(order), size)]
    return max(groups, key=lambda places: len(places) * max(lengths[place] for place in places))


def without_data(model: Any) -> tuple[Any, list[torch.Tensor]]:
    """Copy a model without the data of its weights. Needs FakeTensorMode.

    Returns:
        The copy, and its weights and buffers.
    """
    known = {id(weight): shaped(weight) for weight in [*model.parameters(), *model.buffers()]}
    shapes = list(known.values())  # deepcopy adds to `known`
    return copy.deepcopy(model, known), shapes  # of these tensors there is no copy


def shaped(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor, or a weight, of the same shape and dtype, without data. Needs FakeTensorMode."""
    found = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cpu")
    if isinstance(tensor, torch.nn.Parameter):
        return torch.nn.Parameter(found, requires_grad=tensor.requires_grad)
    return found


class LiveBytes(TorchDispatchMode):
    """Count the bytes of results that are alive. `peak` is their highest sum.

    Args:
        apart: tensors that do not count, and whose views do not.
    """

    def __init__(self, apart: Iterable[torch.Tensor]) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.known = {id(tensor.untyped_storage()) for tensor in apart}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation, and count its results."""
        found = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(found):
            if isinstance(tensor, torch.Tensor):
                self._count(tensor.untyped_storage())
        return found

    def _count(self, storage: torch.UntypedStorage) -> None:
        """Count a storage once, until it is freed: views share it."""
        key, size = id(storage), storage.nbytes()
        if key in self.known:
            return
        self.known.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._free, key, size)

    def _free(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.now -= size


def _loss(model: Any, inputs: dict[str, Any], arguments: trl.SFTConfig) -> torch.Tensor:
    """Compute the loss from what `Trainer.compute_loss` computes it from, with no more and no less in memory."""
    if arguments.label_smoothing_factor:
        labels = inputs.pop("labels")
        return LabelSmoother(arguments.label_smoothing_factor)(model(**inputs), labels, shift_labels=True)
    if not arguments.use_cpu:
        return -model(**inputs, fused_lm_head=True).log_probs.sum()
    with batches.output_at(model, inputs.pop("places")):
        loss: torch.Tensor = model(**inputs).loss
    return loss


def _bind(outline: Any, arguments: trl.SFTConfig) -> None:
    """Give a copy its own forward pass, as TRL's runs that of the model it was made for, and what training adds."""
    base = outline.get_base_model() if isinstance(outline, peft.PeftModel) else outline
    base.__dict__.pop("forward", None)
    if not arguments.use_cpu:
        add_fused_lm_head(base, outputs=("log_probs", "entropy", "is_top1"))
    if arguments.gradient_checkpointing:
        base.gradient_checkpointing_enable(arguments.gradient_checkpointing_kwargs)
