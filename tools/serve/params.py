"""Params of serving: the section `serve` of params.yaml. No stage reads it, so a change reruns nothing."""

from pathlib import Path
from typing import Annotated, Any, Literal

import click
from pydantic import Field, field_validator

from stages.common.params import Section, load_params
from tools.serve.vllm_options import own_options, unsafe_options

KINDS = ("base", "adapter", "merged", "awq")
PLACES = 48  # without serve.vllm.max_num_seqs; vLLM's own default is higher on every machine


class Limits(Section):
    """The section `serve.limits`: what docker/middleware/request_limits.py allows."""

    answers: Annotated[int, Field(ge=1)]
    requests: Annotated[int, Field(ge=1)]
    seconds: Annotated[int, Field(ge=1)]


class ServeParams(Section):
    """The section `serve`; its sub-section `vllm` goes to `vllm serve`, its keys with underscores."""

    model: Literal["base", "adapter", "merged", "awq"]
    adapters: list[str]
    replicas: Annotated[int, Field(ge=1)]
    kv_cache_gib: Annotated[int, Field(ge=1)]
    page_plugins: bool
    retries: Annotated[int, Field(ge=0)]
    log_megabytes: Annotated[int, Field(ge=1)]
    limits: Limits
    vllm: dict[str, Any]

    @field_validator("vllm")
    @classmethod
    def with_underscores(cls, settings: dict[str, Any]) -> dict[str, Any]:
        """Write every key with underscores: vLLM takes dashes, too."""
        found: dict[str, Any] = {}
        for key, value in settings.items():
            name = key.replace("-", "_")
            if name in found:
                raise ValueError(f"{name} is there twice, with dashes and with underscores")
            found[name] = value
        return found

    @property
    def places(self) -> int:
        """How many answers are computed at the same time."""
        return int(self.vllm.get("max_num_seqs") or PLACES)

    @property
    def calls_tools(self) -> bool:
        """Whether vLLM knows how the model calls tools. Without it vLLM refuses questions that offer tools."""
        return bool(self.vllm.get("enable_auto_tool_choice"))


def load_serve_params(path: Path, force: bool = False) -> tuple[ServeParams, list[str]]:
    """Read the section.

    Args:
        path: the params file.
        force: whether settings are allowed with which no model counts as proven.

    Returns:
        The section, and the problem of each such setting.

    Raises:
        click.ClickException: a key is unknown, is one that only `make serve` itself may set, or needs `force`.
    """
    params = load_params(path, "serve", ServeParams)
    if own := own_options(params.vllm):
        names = ", ".join(f"serve.vllm.{key}" for key in own)
        raise click.ClickException(
            f"{path}: {names}: `make serve` sets it, or it is not the plain name of an option; delete the line"
        )
    problems = [f"{path}: serve.vllm.{problem}" for problem in unsafe_options(params.vllm)]
    if problems and not force:
        lines = "\n".join(problems)
        raise click.ClickException(
            f"{lines}\ncorrect or delete it, or serve with it by `FORCE=1`, under a name that ends in -unproven "
            "(docs/serve.md lists the options)"
        )
    return params, problems
