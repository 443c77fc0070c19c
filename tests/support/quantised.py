"""Quantised models for tests: what lies in their files, changed files, and token rows as preprocess writes them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from stage_runs import write_params

from stages.awq.params import AwqParams
from stages.common import tokens
from stages.common.params import load_params

if TYPE_CHECKING:
    from torch import Tensor


def tensors(folder: Path) -> "dict[str, Tensor]":
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def nearest_merge(models: Path) -> "dict[str, Tensor]":
    """Add models/adapter to models/base in float32, and round to the base's dtype: what awq leaves as it is."""
    from stages.awq.model import load_merged, load_model

    network = load_model(models / "base", "dvc repro base")
    stored = network.dtype
    exact = load_merged(network, models / "adapter").state_dict()
    return {name: tensor.to(stored) for name, tensor in exact.items()}


def change_tensors(folder: Path, change: Callable[["dict[str, Tensor]"], object]) -> None:
    from safetensors.torch import save_file

    found = {name: tensor.clone() for name, tensor in tensors(folder).items()}
    change(found)
    save_file(found, folder / "model.safetensors", {"format": "pt"})


def change_config(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    change(config)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")


def linear_layers(folder: Path) -> set[str]:
    return {name.removesuffix(".weight") for name in tensors(folder) if "_proj.weight" in name}


def packed_layers(folder: Path) -> set[str]:
    return {name.removesuffix(".weight_packed") for name in tensors(folder) if name.endswith(".weight_packed")}


def scores(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "metrics" / "awq.json").read_text(encoding="utf-8"))


def awq_params(folder: Path, changes: dict[str, Any]) -> AwqParams:
    return load_params(write_params(folder, changes), "awq", AwqParams)


def write_rows(path: Path, rows: list[tokens.TokenRow]) -> Path:
    columns = [[row.ids for row in rows], [row.mask for row in rows]]
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, tokens.SCHEMA) as writer:
        writer.write_table(pa.table(columns, schema=tokens.SCHEMA))
    return path
