"""Add the adapter to the base weights, and measure what the addition changed.

Fourth stage: reads models/base and models/adapter, writes models/merged, and compares it on val rows with the
adapter applied at run time. Run it with `dvc repro merge`, or alone with `python -m stages.merge`.
"""

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from pydantic import PositiveInt

from stages.common import batches, device, files, settings, tokens

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

PREFIX = "base_model.model."


class MergeParams(settings.Section):
    """params.yaml: merge."""

    rows: PositiveInt
    batch_size: PositiveInt


@click.command(help=__doc__)
@click.option("--params", type=click.Path(path_type=Path), default="params.yaml", show_default=True)
@click.option("--base", type=click.Path(path_type=Path), default="models/base", show_default=True)
@click.option("--adapter", type=click.Path(path_type=Path), default="models/adapter", show_default=True)
@click.option("--val", type=click.Path(path_type=Path), default="data/prepared/val.arrow", show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default="models/merged", show_default=True)
@click.option("--metrics", type=click.Path(path_type=Path), default="metrics/merge.json", show_default=True)
def main(params: Path, base: Path, adapter: Path, val: Path, out: Path, metrics: Path) -> None:
    # Params
    config = settings.load(params, "merge", MergeParams)

    # Inputs
    files.require(base, "dvc repro base")
    whole = (adapter / "config.json").exists()  # train.method: full
    for name in ("config.json",) if whole else ("adapter_config.json", "adapter_model.safetensors"):
        files.require(adapter / name, "dvc repro train")
    rows = tokens.read(val, config.rows)

    import transformers
    from peft import PeftModel

    with files.fresh_folder(out) as folder:
        # Work
        merged_tensors = (take_weights if whole else merge_weights)(base, adapter, folder)
        copy_rest(base, folder)
        place = device.choose()
        click.echo(f"device: {place.name}, {place.dtype}: {place.reason}")
        load = transformers.AutoModelForCausalLM.from_pretrained
        start = load(adapter if whole else base, dtype=place.dtype)
        reference = (start if whole else PeftModel.from_pretrained(start, adapter)).to(place.name).eval()
        merged = load(folder, dtype=place.dtype).to(place.name).eval()
        agreement = compare(reference, merged, rows, config.batch_size)

        # Outputs
        scores = agreement | {
            "rows": len(rows),
            "merged_tensors": merged_tensors,
            "size_bytes": files.size_bytes(folder),
            "base_size_bytes": files.size_bytes(base),
        }
        files.write_json(metrics, scores)
    click.echo(f"{merged_tensors} tensors merged; KL {scores['kl_mean']}, top-1 {scores['top1_agreement']}")


def merge_weights(base: Path, adapter: Path, out: Path) -> int:
    """Write the base's weight files with the adapter added: same files, names, shapes and dtypes.

    LoRA and rsLoRA deltas (`scale * B @ A`, https://arxiv.org/abs/2106.09685) and DoRA's magnitudes
    (https://arxiv.org/abs/2402.09353) are computed in float32 and rounded once.

    Returns:
        How many base tensors changed.

    Raises:
        click.ClickException: an adapter tensor that fits no base tensor, or not its shape.
    """
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    parts = {
        name.removeprefix(PREFIX): part for name, part in load_file(adapter / "adapter_model.safetensors").items()
    }
    used: set[str] = set()
    changed = 0
    for shard in sorted(base.glob("*.safetensors")):
        tensors = {}
        with safe_open(shard, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118  not a dict
                weight = file.get_tensor(name)
                tensors[name], names = merge_tensor(name, weight, parts, config)
                used |= names
                changed += bool(names)
            metadata = file.metadata()
        save_file(tensors, out / shard.name, metadata)
    unused = sorted(set(parts) - used)
    if unused:
        raise click.ClickException(f"{adapter}: {unused[0]}: fits no tensor of {base} ({len(unused)} such tensors)")
    return changed


def take_weights(base: Path, trained: Path, out: Path) -> int:
    """Write weights that were trained whole, in the base's files, names, shapes and dtypes.

    Returns:
        How many tensors differ from the base's.

    Raises:
        click.ClickException: a tensor that the base does not have, or has in another shape, or that is missing.
    """
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    parts = {name: part for file in sorted(trained.glob("*.safetensors")) for name, part in load_file(file).items()}
    changed = 0
    for shard in sorted(base.glob("*.safetensors")):
        tensors = {}
        with safe_open(shard, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118  not a dict
                weight = file.get_tensor(name)
                if name not in parts:
                    raise click.ClickException(f"{trained}: {name}: missing; was it trained on another base?")
                require_shape(name, weight, parts[name])
                tensors[name] = parts.pop(name).to(weight.dtype)
                changed += not weight.equal(tensors[name])
            metadata = file.metadata()
        save_file(tensors, out / shard.name, metadata)
    if parts:
        raise click.ClickException(f"{trained}: {min(parts)}: fits no tensor of {base} ({len(parts)} such tensors)")
    return changed


def merge_tensor(
    name: str, weight: "torch.Tensor", parts: dict[str, "torch.Tensor"], config: dict[str, Any]
) -> tuple["torch.Tensor", set[str]]:
    """Merge one base tensor with the adapter tensors meant for it.

    Args:
        name: its name, such as `model.layers.0.mlp.up_proj.weight`.
        weight: shape (out, in) where LoRA applies.
        parts: every adapter tensor by name without the PEFT prefix.
        config: the adapter's adapter_config.json.

    Returns:
        The tensor to write, and the names of the adapter tensors that went into it.
    """
    module = name.removesuffix(".weight")
    if name in parts:  # modules_to_save: trained whole
        require_shape(name, weight, parts[name])
        return parts[name].to(weight.dtype), {name}
    names = [f"{module}.lora_A.weight", f"{module}.lora_B.weight"]
    if not parts.keys() >= set(names):
        return weight, set()
    down, up = (parts[part].float() for part in names)
    delta = scale(module, down.shape[0], config) * (up @ down)
    if config.get("fan_in_fan_out"):
        delta = delta.T
    require_shape(name, weight, delta)
    merged = weight.float() + delta
    magnitude = f"{module}.lora_magnitude_vector"
    if magnitude in parts:
        names.append(magnitude)
        merged = merged * (parts[magnitude].float() / merged.norm(dim=1))[:, None]
    return merged.to(weight.dtype), set(names)


def require_shape(name: str, weight: "torch.Tensor", part: "torch.Tensor") -> None:
    """Fail when what the adapter has for a base tensor is of another shape."""
    if part.shape != weight.shape:
        raise click.ClickException(
            f"{name}: shape {tuple(weight.shape)}, adapter {tuple(part.shape)}; was it trained on another base?"
        )


def scale(module: str, rank: int, config: dict[str, Any]) -> float:
    """Give the factor before B @ A, as `peft.tuners.lora` does: alpha / r, or alpha / sqrt(r) for rsLoRA."""
    from peft.utils.other import get_pattern_key

    pattern = config.get("alpha_pattern") or {}
    alpha = pattern.get(get_pattern_key(pattern.keys(), module), config["lora_alpha"])
    return alpha / (rank**0.5 if config.get("use_rslora") else rank)


def copy_rest(base: Path, out: Path) -> None:
    """Carry tokenizer, chat template and configs over unchanged; the manifest speaks of the base alone."""
    for file in sorted(base.iterdir()):
        if file.suffix != ".safetensors" and file.name != "manifest.json":
            shutil.copyfile(file, out / file.name)


def compare(
    reference: "PreTrainedModel", merged: "PreTrainedModel", rows: list[tokens.TokenRow], batch_size: int
) -> dict[str, float]:
    """Compare next-token distributions wherever an answer's token is predicted.

    Returns:
        `kl_mean` and `kl_max`, KL(reference || merged) in nats per token, and `top1_agreement`.
    """
    import torch

    divergences, agreed = [], 0
    with torch.inference_mode():
        for batch in batches.padded(rows, batch_size):
            expected = batches.answer_logits(reference, batch).log_softmax(-1)
            actual = batches.answer_logits(merged, batch).log_softmax(-1)
            divergences.append((expected.exp() * (expected - actual)).sum(-1))
            agreed += int((expected.argmax(-1) == actual.argmax(-1)).sum())
    kl = torch.cat(divergences)
    return {
        "kl_mean": float(f"{kl.mean().clamp(min=0).item():.6g}"),
        "kl_max": float(f"{kl.max().item():.6g}"),
        "top1_agreement": round(agreed / len(kl), 6),
        "tokens": len(kl),
    }


if __name__ == "__main__":
    main()
