"""Calibration: the prepared rows that quantisation watches the model on."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from stages.common import tokens

if TYPE_CHECKING:
    from datasets import Dataset

    from stages.awq import AwqParams


def read(arrow: Path, config: "AwqParams") -> list[tokens.TokenRow]:
    """Read awq.samples rows, or all where there are fewer, none longer than awq.max_seq_length."""
    rows = tokens.read(arrow, config.samples)
    if len(rows) < config.samples:
        click.echo(f"calibrated on {len(rows)} rows, all that {arrow} has; awq.samples asks for {config.samples}")
    return [tokens.TokenRow(row.ids[: config.max_seq_length], row.mask[: config.max_seq_length]) for row in rows]


def samples(rows: list[tokens.TokenRow], config: "AwqParams") -> "Dataset":
    """Give calibration rows as the dataset that llm-compressor takes.

    Raises:
        click.ClickException: only the assistant's tokens are to count, and there are none.
    """
    from datasets import Dataset

    columns = {"input_ids": [row.ids for row in rows], "attention_mask": [[1] * len(row.ids) for row in rows]}
    if config.use_loss_mask:
        if not any(1 in row.mask for row in rows):
            raise click.ClickException(
                f"awq.use_loss_mask: no token of an answer in the first {config.max_seq_length} of any row; "
                "raise awq.max_seq_length or set awq.use_loss_mask to false"
            )
        columns["loss_mask"] = [row.mask for row in rows]
    return Dataset.from_dict(columns)
