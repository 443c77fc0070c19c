"""Verify: check the saved model's files, load it as its users do, compare it with the one in memory, and ask it."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stages.awq.model import load_model, log_probabilities
from stages.awq.schemes import Expected
from stages.common import agreement
from stages.common.device import Device
from stages.common.tokens import TokenRow

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

TOLERANCE = 0.01  # share by which the size may differ from the expected one, which counts every tensor
# Nats per token. After loading, the tiny model differs by 0.000005 (4 bits) to 0.0006 (FP8, which also rounds
# activations). With a layer's scales or zero points lost, or its packed rows moved, it differs by 0.007 to 2.8.
LIMIT = 0.005
ANSWER = 32  # tokens of the answer in the terminal


def verify_model(
    folder: Path, expected: Expected, rows: list[TokenRow], before: "torch.Tensor", device: str
) -> dict[str, Any]:
    """Check a saved model.

    Args:
        folder: the saved model.
        expected: the layers and bytes that it must hold.
        rows: the calibration rows; the model answers the first one's prompt in the terminal.
        before: `log_probabilities` of the model in memory, before it was saved.
        device: where to compute; weights are copied there layer by layer, as in calibration.

    Returns:
        `expected_modules`, `quantized_modules` and `reload_kl_mean`, KL(in memory || loaded) in nats per token.

    Raises:
        click.ClickException: other layers are quantised, the size is wrong, or the model cannot be loaded or is not
            the one that was saved.
    """
    from compressed_tensors.offload import set_onload_device

    quantized = check_files(folder, expected)
    network = set_onload_device(load_model(folder, "dvc repro awq"), device)
    after = log_probabilities(network, rows)
    divergence = float((before.exp() * (before - after)).sum(-1).mean())
    if not divergence <= LIMIT:
        raise click.ClickException(
            f"{folder}: loaded again, the model is not the one that was saved (KL {divergence:.4f} nats per token, "
            f"limit {LIMIT}), so it is not kept; install the locked libraries with `make install`"
        )
    prompt, completion = answer(network, folder, rows[0])
    click.echo(f"prompt: {prompt}\nanswer: {completion}")
    return {
        "expected_modules": len(expected.layers),
        "quantized_modules": quantized,
        "reload_kl_mean": round(divergence, 6),
    }


def compare_trained(
    base: Path,
    adapter: Path,
    folder: Path,
    rows: list[TokenRow],
    batch_size: int,
    base_divergence: float,
    device: Device,
) -> dict[str, Any]:
    """Compare a saved model with what was trained, as merge compares the merged one.

    Args:
        base: the base model's folder.
        adapter: the adapter, or the model that a full fine-tuning left.
        folder: the saved model.
        rows: the val rows that merge used.
        batch_size: rows in one forward pass.
        base_divergence: KL(adapter || base) on these rows, as merge measured it.
        device: where to compute, and in which dtype.

    Returns:
        What `agreement.compare` finds, `rows`, and `kept`, the share of the fine-tuning that is left.
    """
    found = agreement.compare(
        lambda: agreement.load_trained(base, adapter, device),
        {"awq": lambda: agreement.load(folder, device)},
        rows,
        batch_size,
        folder,
    )["awq"]
    return {**found, "kept": agreement.kept(found["kl_mean"], base_divergence), "rows": len(rows)}


def compare_sizes(size: int, merged_size: int) -> dict[str, Any]:
    """Return the bytes of the weight files before and after, and their ratio."""
    return {"size_bytes": size, "merged_size_bytes": merged_size, "size_ratio": round(size / merged_size, 6)}


def check_files(folder: Path, expected: Expected) -> int:
    """Compare a model's files, without loading them, with what they must hold.

    A layer counts as quantised if a scale lies beside its packed integers, 8-bit integers or FP8 numbers, and if
    config.json names the quantisation, as readers need that.

    Returns:
        How many layers are quantised.

    Raises:
        click.ClickException: other layers than expected are quantised, or the tensors take other bytes.
    """
    from safetensors import safe_open

    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    dtypes: dict[str, str] = {}
    size = 0
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            dtypes |= {name: tensors.get_slice(name).get_dtype() for name in tensors.keys()}  # noqa: SIM118
        with file.open("rb") as content:  # the header's length in 8 bytes, the header, the tensors
            size += file.stat().st_size - 8 - int.from_bytes(content.read(8), "little")
    quantized = set()
    if config.get("quantization_config", {}).get("quant_method") == "compressed-tensors":
        scaled = {name.removesuffix(".weight_scale") for name in dtypes if name.endswith(".weight_scale")}
        quantized = {name for name in scaled if dtypes.get(f"{name}.weight_packed") == "I32"}
        quantized |= {name for name in scaled if dtypes.get(f"{name}.weight") in ("I8", "F8_E4M3")}
    if wrong := sorted(quantized ^ expected.layers):
        problem = "is not quantised" if wrong[0] in expected.layers else "is quantised but should not be"
        raise click.ClickException(
            f"{folder}: {len(quantized & expected.layers)} of {len(expected.layers)} linear layers are quantised; "
            f"{wrong[0]} {problem}; check awq.ignore"
        )
    if abs(size - expected.size_bytes) > TOLERANCE * expected.size_bytes:
        raise click.ClickException(
            f"{folder}: {size} bytes of tensors, but their shapes need {expected.size_bytes} (tolerance "
            f"{TOLERANCE:.0%}); a tensor is stored twice or in 16 bits; check awq.ignore"
        )
    return len(quantized)


def answer(network: "PreTrainedModel", folder: Path, row: TokenRow) -> tuple[str, str]:
    """Let the model answer a row's first prompt greedily, and return prompt and answer, each as one line."""
    import torch
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    prompt = torch.tensor([row.ids[: max(1, [*row.mask, 1].index(1))]]).to(network.device)
    with torch.inference_mode():
        output = network.generate(
            input_ids=prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=ANSWER,
            do_sample=False,
            pad_token_id=tokenizer.pad_token_id or 0,
        )
    texts = tokenizer.batch_decode([prompt[0], output[0, prompt.shape[1] :]], skip_special_tokens=True)
    prompt_text, answer_text = (" ".join(text.split()) for text in texts)
    return prompt_text, answer_text
