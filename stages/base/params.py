"""Params of the base stage: which model is downloaded, or how the tiny one is built."""

from typing import Literal

from stages.common.params import Section


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


class BaseParams(Section):
    """params.yaml, section base."""

    source: Literal["tiny", "hub"]
    id: str | None
    revision: str | None
    chat_template: str | None
    stop_token: str | None
    tiny: TinyParams
