"""Mergeable: what merge would refuse after the training is refused before it."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import click
import peft
import torch
from peft.utils.constants import EMBEDDING_LAYER_NAMES
from peft.utils.other import _get_module_names_tied_with_embedding
from safetensors import safe_open
from transformers.core_model_loading import revert_weight_conversion
from transformers.modeling_utils import remove_tied_weights_from_state_dict

from stages.common.adapter_names import base_name, plain_name
from stages.train.lora_names import saved_names, target_names

DTYPES = ("F32", "F16", "BF16")  # those that merge computes with


class Stored(NamedTuple):
    """A tensor in the base model's files."""

    dtype: str
    shape: tuple[int, ...]


def tied_names(model: Any) -> list[str]:
    """List the modules that share the matrix of the input embedding, the embedding first; none if it is alone."""
    matrix = model.get_input_embeddings().weight
    modules = model.named_modules(remove_duplicate=False)
    found = [name for name, module in modules if getattr(module, "weight", None) is matrix]
    found.sort(key=lambda name: model.get_submodule(name) is not model.get_input_embeddings())
    return found if len(found) > 1 else []


def require_tied(params: Path, base: Path, lora: peft.LoraConfig, model: Any) -> None:
    """Fail when train.lora changes one use of a matrix that the model uses for input and output.

    The merged model has one such matrix, as the base has. With `ensure_weight_tying` PEFT trains one, too, if it is
    in `modules_to_save`. Of an adapter in `target_modules` PEFT keeps two copies all the same: each gets its own step
    of the optimizer, and in bfloat16 they drift apart.

    Args:
        params: the params file, for messages.
        base: the base model's folder, for messages.
        lora: the config of the adapter.
        model: the base model, with or without its weights.

    Raises:
        click.ClickException: the first such setting, with what to set instead.
    """
    tied = tied_names(model)
    if not tied:
        return
    why = f"{base} uses one matrix as {' and '.join(tied)} (tie_word_embeddings)"
    entry = tied[0].rpartition(".")[2]  # PEFT saves the adapter under this name, and ties those that it knows
    plain = all([name for name, _ in model.get_submodule(use).named_parameters()] == ["weight"] for use in tied)
    possible = (
        entry in EMBEDDING_LAYER_NAMES
        and plain
        and {*_get_module_names_tied_with_embedding(model), tied[0]} == set(tied)
    )
    instead = f"modules_to_save: [{entry}] with ensure_weight_tying: true" if possible else "no such layer"
    if adapted := sorted(set(target_names(lora, model)) & set(tied)):
        raise click.ClickException(
            f"{params}: train.lora.target_modules: {adapted[0]} cannot have an adapter: {why}, and PEFT trains "
            f"one for each use; train {instead}"
        )
    for name in lora.modules_to_save or ():
        saved = saved_names([name], model)
        if any(use.startswith(f"{one}.") for one in saved for use in tied):
            raise click.ClickException(
                f"{params}: train.lora.modules_to_save: {name} holds a shared matrix: {why}, and PEFT would train a "
                f"copy of one; train {instead}"
            )
        if set(saved) & set(tied):
            if not possible or name.rpartition(".")[2] not in EMBEDDING_LAYER_NAMES:
                raise click.ClickException(
                    f"{params}: train.lora.modules_to_save: {name} cannot be trained: {why}, and PEFT would train a "
                    f"copy for each use; train {instead}"
                )
            if not lora.ensure_weight_tying:
                raise click.ClickException(
                    f"{params}: train.lora.modules_to_save: {name} would no longer be shared: {why}; set "
                    "train.lora.ensure_weight_tying: true, or train without it"
                )


def unmergeable(base: Path, model: Any) -> Iterator[str]:
    """Find what cannot be merged into the base model of the tensors that the trainer will save.

    Args:
        base: the base model's folder.
        model: the model as it is trained: a `peft.PeftModel`, or with train.method full a transformers model.

    Returns:
        For each such tensor the key of the params, and the reason.
    """
    stored = _stored(base)
    if isinstance(model, peft.PeftModel):
        yield from (f"train.lora: {problem}" for problem in _adapter_problems(base, model, stored))
    else:
        yield from (f"train.method: full: {problem}" for problem in _full_problems(base, model, stored))


def _stored(base: Path) -> dict[str, Stored]:
    """Read names, dtypes and shapes of the tensors in the base model's files."""
    found = {}
    for path in sorted(base.glob("*.safetensors")):
        with safe_open(path, framework="numpy") as file:
            for name in file.keys():  # noqa: SIM118 (it is no dict)
                part = file.get_slice(name)
                found[name] = Stored(part.get_dtype(), tuple(part.get_shape()))
    return found


def _adapter_problems(base: Path, model: peft.PeftModel, stored: dict[str, Stored]) -> Iterator[str]:
    trained = {
        plain_name(name): tensor
        for name, tensor in peft.get_peft_model_state_dict(model, save_embedding_layers=False).items()
    }
    shared = {tensor.data_ptr() for name, tensor in trained.items() if name in stored}
    for name, tensor in sorted(trained.items()):
        tensor_name = base_name(name)
        if tensor_name not in stored:
            if tensor.data_ptr() in shared:  # the second use of a matrix that the base stores once
                continue
            reason = "it has no bias (lora_bias)" if name.endswith(".lora_B.bias") else "it is stored another way"
            yield f"{name} fits no tensor of {base}, and cannot be merged: {reason}; train without it"
        elif stored[tensor_name].dtype not in DTYPES:
            yield (
                f"{tensor_name}: {stored[tensor_name].dtype} numbers cannot be merged; use a base model in "
                f"{', '.join(DTYPES)}"
            )
        elif (shape := _shape(name, trained)) not in (wanted := stored[tensor_name].shape, wanted[::-1]):
            yield f"{name}: shape {shape}, but {base} has {wanted}: it cannot be merged; train without it"


def _shape(name: str, trained: dict[str, torch.Tensor]) -> tuple[int, ...]:
    """Compute the shape of what a trained tensor changes: of B * A for its factors."""
    for a, b in ((".lora_A.weight", ".lora_B.weight"), (".lora_embedding_A", ".lora_embedding_B")):
        module = name.removesuffix(a).removesuffix(b)
        if module != name or name.endswith(".lora_magnitude_vector"):
            module = module.removesuffix(".lora_magnitude_vector")
            if module + a in trained and module + b in trained:
                return (trained[module + b].shape[0], *trained[module + a].shape[1:])
    return tuple(trained[name].shape)


def _full_problems(base: Path, model: Any, stored: dict[str, Stored]) -> Iterator[str]:
    """Compare the names that transformers will save with those of the base: no value is read."""
    kept = remove_tied_weights_from_state_dict(model.state_dict(), model)
    names = {name: tensor.to("meta") for name, tensor in kept.items() if name not in _ignored(model)}
    saved = revert_weight_conversion(model, names)
    for name in sorted(stored.keys() - saved.keys()):
        yield f"{base} stores {name}, which the trained model has not: it cannot be merged; use train.method: lora"
    for name, tensor in sorted(saved.items()):
        if name not in stored:
            yield f"{name} fits no tensor of {base}: it cannot be merged; use train.method: lora"
        elif stored[name].dtype not in DTYPES:
            yield f"{name}: {stored[name].dtype} numbers cannot be merged; use a base model in {', '.join(DTYPES)}"
        elif tuple(tensor.shape) != stored[name].shape:
            yield f"{name}: shape {tuple(tensor.shape)}, but {base} has {stored[name].shape}; use train.method: lora"


def _ignored(model: Any) -> Iterable[str]:
    return getattr(model, "_keys_to_ignore_on_save", None) or ()
