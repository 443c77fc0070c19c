"""Plan: which trained tensors belong to which tensor of the base model, checked before anything is written."""

import math
import re
from pathlib import Path
from typing import Any

import click
import numpy as np

from stages.common import files
from stages.common.adapter_config import CONFIG, require_known
from stages.common.adapter_names import plain_name
from stages.merge.delta import Delta
from stages.merge.tensors import DTYPES, Tensor, list_tensors

Plan = dict[Path, list[tuple[Tensor, Delta | None]]]  # of each weight file: its tensors, and what changes them


def plan_merge(base: Path, trained: Path, lora: dict[str, Any] | None) -> Plan:
    """Find the delta of every tensor of the base model.

    Args:
        base: the base model's folder.
        trained: the folder of an adapter, or of a model after full fine-tuning.
        lora: the adapter's adapter_config.json; None after full fine-tuning.

    Raises:
        click.ClickException: a trained tensor fits no tensor of the base, or the adapter is of a kind that cannot be
            merged.
    """
    parts = {plain_name(part.name): part for part in list_tensors(trained)}
    plan: Plan = {file: [] for file in sorted(base.glob("*.safetensors"))}
    used = set()
    for tensor in list_tensors(base):
        delta = find_delta(tensor.name, parts, lora or {})
        if lora is None and not delta.replacement:
            raise click.ClickException(f"{trained}: {tensor.name}: missing; run `dvc repro train` on this base model")
        found = [part for part in delta[:5] if part]
        if found:
            require_fit(tensor, delta, found)
            used |= {plain_name(part.name) for part in found}
        plan[tensor.file].append((tensor, delta if found else None))
    copies = tied_copies(base, plan, parts, set(parts) - used)
    if unused := sorted(set(parts) - used - copies):
        raise click.ClickException(
            f"{trained}: {unused[0]}: fits no tensor of {base} ({len(unused)} such tensors); train without it, or on "
            "this base model"
        )
    if lora is not None:
        require_known(str(trained / CONFIG), lora)
        require_untied(base, trained, plan, bool(copies))
    return plan


def find_delta(name: str, parts: dict[str, Tensor], lora: dict[str, Any]) -> Delta:
    """Find the trained tensors for one tensor of the base model, by PEFT's names.

    Args:
        name: the base tensor's name, such as `model.layers.0.mlp.up_proj.weight`.
        parts: trained tensors by plain name.
        lora: adapter_config.json.
    """
    module, _, kind = name.rpartition(".")
    delta = Delta(parts.get(name), transposed=bool(lora.get("fan_in_fan_out")))
    a, b = parts.get(f"{module}.lora_A.weight"), parts.get(f"{module}.lora_B.weight")
    if f"{module}.lora_embedding_A" in parts:
        a, b = parts.get(f"{module}.lora_embedding_A"), parts.get(f"{module}.lora_embedding_B")
        delta = delta._replace(transposed=True)
    if not a or not b:
        return delta
    delta = delta._replace(scale=find_scale(module, a.shape[0] if a.shape else 1, lora))
    if kind == "bias":
        return delta._replace(bias=parts.get(f"{module}.lora_B.bias"))
    if kind == "weight":
        return delta._replace(lora_a=a, lora_b=b, magnitude=parts.get(f"{module}.lora_magnitude_vector"))
    return delta


def find_scale(module: str, rank: int, lora: dict[str, Any]) -> float:
    """Compute the factor before B * A as PEFT does: alpha / rank, or alpha / sqrt(rank) for rsLoRA."""
    patterns = lora.get("alpha_pattern") or {}
    alphas = [alpha for pattern, alpha in patterns.items() if re.match(rf"(.*\.)?({pattern})$", module)]
    alpha = alphas[0] if alphas else lora["lora_alpha"]
    return alpha / (math.sqrt(rank) if lora.get("use_rslora") else rank) if rank else 0.0


def require_fit(tensor: Tensor, delta: Delta, parts: list[Tensor]) -> None:
    """Fail if a trained tensor has another shape than the base's, or either has a dtype that is not computed with."""
    for part in (tensor, *parts):
        if part.dtype not in DTYPES:
            raise click.ClickException(
                f"{part.file}: {part.name}: {part.dtype} numbers cannot be merged; use a model in {', '.join(DTYPES)}"
            )
    wrong = [str(part.shape) for part in (delta.replacement, delta.bias) if part and part.shape != tensor.shape]
    if delta.lora_a and delta.lora_b:
        shape = (*delta.lora_b.shape[:1], *delta.lora_a.shape[1:])
        if delta.lora_b.shape[1:] != delta.lora_a.shape[:1]:
            wrong.append(f"{delta.lora_b.shape} by {delta.lora_a.shape}")
        elif tensor.shape != (shape[::-1] if delta.transposed else shape):
            wrong.append(str(shape))
        if delta.magnitude and math.prod(delta.magnitude.shape) != shape[0]:
            wrong.append(str(delta.magnitude.shape))
    if wrong:
        raise click.ClickException(
            f"{tensor.name}: shape {tensor.shape}, adapter {wrong[0]}; run `dvc repro train` on this base model"
        )


def tied_tables(base: Path, plan: Plan) -> list[tuple[Tensor, Delta | None]]:
    """Find the embedding that the model uses for input and output; a base may store it twice. None if it has two."""
    config = files.read_json(base / "config.json")
    vocab_size = config.get("text_config", config).get("vocab_size")
    outside = [one for tensors in plan.values() for one in tensors if not re.search(r"\.\d+\.", one[0].name)]
    tables = [one for one in outside if len(one[0].shape) == 2 and one[0].shape[0] == vocab_size]
    return tables if config.get("tie_word_embeddings") or len(tables) == 1 else []


def tied_copies(base: Path, plan: Plan, parts: dict[str, Tensor], unused: set[str]) -> set[str]:
    """Find the trained embedding once more: with ensure_weight_tying PEFT saves it under the name of each use."""
    new = [delta.replacement for _, delta in tied_tables(base, plan) if delta and delta.replacement]
    return {name for name in unused for one in new if equal(parts[name], one)}


def equal(one: Tensor, other: Tensor) -> bool:
    """Compare two trained tensors, block by block."""
    return (one.dtype, one.shape) == (other.dtype, other.shape) and all(
        np.array_equal(one.read(start, stop), other.read(start, stop)) for start, stop, _ in one.blocks()
    )


def require_untied(base: Path, trained: Path, plan: Plan, copied: bool) -> None:
    """Fail if an adapter changes one of the two uses of an embedding that the model uses for input and output.

    Merged, it would change both.

    Args:
        base: the base model's folder.
        trained: the adapter's folder.
        plan: what changes each tensor.
        copied: whether the adapter has the same new embedding for the use that the base does not store.
    """
    tables = tied_tables(base, plan)
    new = [delta.replacement for _, delta in tables if delta and delta.replacement and not delta.lora_a]
    complete = len(new) == len(tables) and all(equal(new[0], one) for one in new) and (copied or len(new) > 1)
    for tensor, delta in tables:
        if delta and not complete:
            raise click.ClickException(
                f"{trained}: {tensor.name}: {base} uses it for input and output (tie_word_embeddings), and the "
                "adapter changes one of the two; train without it"
            )
