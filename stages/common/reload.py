"""Reload: a quantised model saved, read back as its users read it, compared with itself, and asked a question."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import click

from stages.common import batches, networks, tokens

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

ROWS = 4  # compared; one batch, as on a GPU each batch brings every layer there once more
# Nats per answer token. Read back, the tiny model differed by 0.000005 (4 bits) to 0.0006 (FP8: it rounds activations
# as well); with a layer's scales or zero points lost, or its packed rows out of place, by 0.007 to 2.8.
LIMIT = 0.005
ANSWER = 32  # tokens that are shown of an answer


def save(
    network: "PreTrainedModel", stored: "torch.dtype", folder: Path, rows: list[tokens.TokenRow], device: str
) -> "torch.Tensor":
    """Save what llm-compressor made of a model.

    Args:
        network: the model, as llm-compressor left it.
        stored: the dtype of whatever is not quantised.
        folder: where to.
        rows: to compare it on.
        device: where to compute; weights come there layer by layer, as for calibration.

    Returns:
        What `log_probabilities` says of it before it is packed.
    """
    from compressed_tensors.offload import disable_offloading, remove_dispatch, set_onload_device
    from compressed_tensors.quantization.utils import is_module_quantized
    from llmcompressor import reset_session

    set_onload_device(remove_dispatch(network).to(stored), device)
    for layer in filter(is_module_quantized, network.modules()):
        # It rounds its weight in place, and would fetch it anew from the host before it computes.
        layer.forward = disable_offloading()(layer.forward)
    before = log_probabilities(network, rows)
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # that a model on the CPU is offloaded
        network.save_pretrained(folder, save_compressed=True)
    reset_session()  # it holds the model
    return before


def log_probabilities(network: "PreTrainedModel", rows: list[tokens.TokenRow]) -> "torch.Tensor":
    """Give what a model says in the first ROWS rows that have an answer, or in any, of all answer tokens.

    Returns:
        Shape (answer tokens, vocabulary), float32.

    Raises:
        click.ClickException: infinite or undefined numbers.
    """
    import torch

    chosen = [row for row in rows if 1 in row.mask[1:]][:ROWS]
    chosen = chosen or [tokens.TokenRow(row.ids, [1] * len(row.ids)) for row in rows[:ROWS]]
    (batch,) = batches.padded(chosen, ROWS)
    with torch.inference_mode():
        found = batches.answer_logits(network, batch).log_softmax(-1).cpu()
    if not found.isfinite().all():
        raise click.ClickException("awq: the quantised model gives infinite or undefined numbers; nothing was kept")
    return found


def compare(folder: Path, rows: list[tokens.TokenRow], before: "torch.Tensor", device: str) -> float:
    """Load the saved model, compare it with the one that was saved, and let it answer a question.

    Args:
        folder: the saved model.
        rows: to compare it on; the first one's question is asked.
        before: `log_probabilities` of the model in memory.
        device: as in `save`.

    Returns:
        KL divergence from the one in memory, nats per answer token.

    Raises:
        click.ClickException: a model that cannot be loaded, or is another.
    """
    from compressed_tensors.offload import set_onload_device

    network = set_onload_device(networks.load(folder, "dvc repro awq"), device)
    after = log_probabilities(network, rows)
    divergence = float((before.exp() * (before - after)).sum(-1).mean())
    if not divergence <= LIMIT:
        raise click.ClickException(
            f"{folder}: read back, it is another model than the one that was saved: KL {divergence:.4f} nats per "
            f"answer token, at most {LIMIT}; nothing was kept"
        )
    question, said = answer(network, folder, rows[0])
    click.echo(f"asked: {question}\nsaid:  {said}")
    return divergence


def answer(network: "PreTrainedModel", folder: Path, row: tokens.TokenRow) -> tuple[str, str]:
    """Let the model go on greedily where a row's first answer begins, and give prompt and answer in one line each."""
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
    question, said = (" ".join(text.split()) for text in texts)
    return question, said
