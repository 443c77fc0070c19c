"""Params of the awq stage: the quantisation scheme, and the settings that belong to it."""

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, PositiveInt, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from stages.common.params import Section

# Settings that a scheme uses, of those that not all use.
KEYS = {
    "W4A16_ASYM": {"group_size", "duo_scaling", "use_loss_mask"},
    "W4A16": {"group_size", "duo_scaling", "use_loss_mask"},
    "FP8_DYNAMIC": {"duo_scaling", "use_loss_mask"},
    "W8A8": {"smoothing_strength"},
}


def _compiles(entry: str) -> str:
    """Refuse a pattern that is not a regular expression, before any model is read."""
    if not entry.startswith("re:"):
        return entry
    pattern = entry.removeprefix("re:")
    try:
        re.compile(pattern)
    except (re.error, OverflowError) as error:
        # The usual mistake is a shell's pattern, in which a star stands alone.
        near = f"; did you mean re:.{pattern}?" if pattern.startswith("*") else ""
        text = "not a regular expression: {problem}{near}"
        raise PydanticCustomError("pattern", text, {"problem": str(error), "near": near}) from None
    return entry


class AwqParams(Section):
    """params.yaml: awq."""

    scheme: Literal["W4A16_ASYM", "W4A16", "FP8_DYNAMIC", "W8A8"]
    group_size: PositiveInt | Literal["auto"] | None
    duo_scaling: bool | Literal["both"] | None
    smoothing_strength: float | None = Field(ge=0, le=1)
    ignore: list[Annotated[str, AfterValidator(_compiles)]]
    samples: PositiveInt
    max_seq_length: PositiveInt
    batch_size: PositiveInt
    use_loss_mask: bool

    @field_validator("group_size", "duo_scaling", "smoothing_strength", "use_loss_mask")
    @classmethod
    def fits_the_scheme(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse a value that the scheme does not use, and a missing one that it needs."""
        scheme, key = info.data.get("scheme"), str(info.field_name)
        if not scheme:  # it has an error of its own
            return value
        unset = False if key == "use_loss_mask" else None
        if key in KEYS[scheme] and value is None:
            raise PydanticCustomError("unfit", "scheme {scheme} needs a value", {"scheme": scheme})
        if key not in KEYS[scheme] and value != unset:
            raise PydanticCustomError(
                "unfit",
                "scheme {scheme} does not use it; set it to {unset}",
                {"scheme": scheme, "unset": "null" if unset is None else "false"},
            )
        return value
