"""Calibration: the prepared rows that llm-compressor runs through the model to choose its scales."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from stages.awq.params import AwqParams
from stages.common import tokens
from stages.common.tokens import TokenRow

if TYPE_CHECKING:
    from datasets import Dataset


def read_calibration(arrow: Path, config: AwqParams) -> "tuple[list[TokenRow], Dataset]":
    """Read the calibration rows.

    Args:
        arrow: calibration.arrow of the preprocess stage.
        config: awq.samples rows are used, or all where there are fewer; each is cut after awq.max_seq_length tokens.

    Returns:
        The rows, and the same rows as the dataset that llm-compressor takes.

    Raises:
        click.ClickException: awq.use_loss_mask is set, and no row has an assistant token.
    """
    limit = config.max_seq_length
    rows = [TokenRow(row.ids[:limit], row.mask[:limit]) for row in tokens.read(arrow, config.samples)]
    if len(rows) < config.samples:
        click.echo(f"{arrow}: {len(rows)} rows, and all are used; awq.samples asks for {config.samples}")
    columns = {"input_ids": [row.ids for row in rows], "attention_mask": [[1] * len(row.ids) for row in rows]}
    if config.use_loss_mask:
        if not any(1 in row.mask for row in rows):
            raise click.ClickException(
                f"awq.use_loss_mask: no row has an assistant token among its first {limit} tokens; "
                "raise awq.max_seq_length or set awq.use_loss_mask to false"
            )
        columns["loss_mask"] = [row.mask for row in rows]

    from datasets import Dataset

    return rows, Dataset.from_dict(columns)
