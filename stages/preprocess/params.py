"""Params of the preprocess stage: how rows are read, checked and split."""

from typing import Literal

from pydantic import Field, PositiveInt, field_validator

from stages.common.params import Section


class FileParams(Section):
    """params.yaml: preprocess.files.NAME: how to read the files whose names fit the pattern NAME.

    Attributes:
        format: None: as the columns say.
        columns: our column to the file's.
        sample_by: what a row of a text file is.
        delimiter: what is between the cells of a CSV file; None: as its first line says.
        encoding: None: UTF-8, or what the file's first bytes say.
        key: in a JSON file that is one object, the key that holds the rows.
        max_row_mib: how long a row may be.
        max_unpacked_gib: how much a compressed file may hold.
    """

    format: Literal["alpaca", "messages", "prompt_completion", "sharegpt", "text"] | None = None
    columns: dict[str, str] = Field(default_factory=dict)
    sample_by: Literal["line", "paragraph", "document"] = "line"
    delimiter: str | None = Field(default=None, min_length=1, max_length=1)
    encoding: str | None = None
    key: str | None = None
    max_row_mib: float = Field(default=256, gt=0)
    max_unpacked_gib: float = Field(default=64, gt=0)

    @field_validator("encoding")
    @classmethod
    def _known_encoding(cls, name: str | None) -> str | None:
        if name is not None:
            try:
                "".encode(name)
            except LookupError:
                raise ValueError("unknown encoding; use a name such as windows-1252 or utf-16") from None
        return name


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
    max_other_language_share: float | None = Field(ge=0, le=1)
    read: list[str]
    rows: PositiveInt | None
    files: dict[str, FileParams]
