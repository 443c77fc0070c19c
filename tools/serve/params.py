"""Params of serving: the section `serve` of params.yaml. No stage reads it, so a change reruns nothing."""

from pathlib import Path
from typing import Annotated, Any, Literal

import click
from pydantic import Field

from stages.common.params import Section, load_params

KINDS = ("base", "merged", "awq")
# Options of `vllm serve` that would serve other bytes than the proven ones, run code beside them, or open a port.
FIXED = {
    *("model", "tokenizer", "served_model_name", "revision", "tokenizer_revision", "code_revision", "config"),
    *("hf_config_path", "hf_overrides", "hf_token", "download_dir", "load_format", "chat_template", "lora_modules"),
    *("enable_lora", "max_lora_rank", "trust_remote_code", "trust_request_chat_template", "enable_prompt_embeds"),
    *("middleware", "logits_processors", "worker_cls", "worker_extension_cls", "scheduler_cls", "tool_parser_plugin"),
    *("reasoning_parser_plugin", "io_processor_plugin", "allowed_local_media_path", "host", "port", "uds", "api_key"),
    *("grpc", "enable_scale_out", "tool_server", "disable_fastapi_docs", "root_path"),
}


class ServeParams(Section):
    """The section `serve`; its sub-section `vllm` goes to `vllm serve` unchanged."""

    model: Literal["base", "merged", "awq"]
    adapters: list[str]
    replicas: Annotated[int, Field(ge=1)]
    kv_cache_gib: Annotated[int, Field(ge=1)]
    retries: Annotated[int, Field(ge=0)]
    log_megabytes: Annotated[int, Field(ge=1)]
    vllm: dict[str, Any]

    @property
    def calls_tools(self) -> bool:
        """Whether vLLM knows how the model calls tools. Without it vLLM refuses questions that offer tools."""
        return bool(self.vllm.get("enable_auto_tool_choice"))


def load_serve_params(path: Path) -> ServeParams:
    """Read the section.

    Raises:
        click.ClickException: a key is unknown, or is one that only `make serve` itself may set.
    """
    params = load_params(path, "serve", ServeParams)
    if fixed := sorted({key.replace("-", "_") for key in params.vllm} & FIXED):
        names = ", ".join(f"serve.vllm.{key}" for key in fixed)
        raise click.ClickException(f"{path}: {names}: `make serve` sets it, or it is unsafe; delete the line")
    return params
