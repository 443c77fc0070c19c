"""Params of the preprocess stage: how rows are read, checked and split."""

from typing import Literal

from pydantic import Field, PositiveInt

from stages.common.params import Section


class FileParams(Section):
    """params.yaml: preprocess.files.NAME: how to read the files whose names fit the pattern NAME."""

    format: Literal["alpaca", "messages", "prompt_completion", "sharegpt", "text"] | None = None
    columns: dict[str, str] = Field(default_factory=dict)
    sample_by: Literal["line", "paragraph", "document"] = "line"


class PreprocessParams(Section):
    """params.yaml: preprocess."""

    seed: int = Field(ge=0, lt=2**64)
    val_fraction: float = Field(gt=0, lt=1)
    calibration_rows: PositiveInt
    max_length: PositiveInt
    over_length: Literal["error", "drop", "truncate"]
    empty_answer: Literal["error", "drop"]
    invalid_row: Literal["error", "drop"]
    control_characters: Literal["error", "drop", "strip", "keep"]
    special_tokens: Literal["error", "drop", "keep"]
    languages: list[str]
    duplicates: Literal["drop", "keep"]
    near_duplicates: Literal["drop", "keep"]
    near_duplicate_similarity: float = Field(gt=0, le=1)
    decontaminate_ngram: PositiveInt
    secrets: Literal["report", "drop"]
    personal_data: Literal["report", "drop"]
    max_dropped_share: float = Field(ge=0, le=1)
    read: list[str]
    files: dict[str, FileParams]
