"""Networks: a model folder's weights in memory, every one of them from the files, or an error."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from stages.common import files

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def load(folder: Path, command: str) -> "PreTrainedModel":
    """Load a model as its users do: on the CPU, in the dtype that it is stored in.

    Args:
        folder: the model folder.
        command: what makes it anew, for messages.

    Raises:
        click.ClickException: a folder that is no model, a broken file, or a weight that no file holds, which
            transformers would start at random and mention in a warning only.
    """
    files.require(folder / "config.json", command)

    import transformers
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError

    try:
        network, found = transformers.AutoModelForCausalLM.from_pretrained(
            folder, output_loading_info=True, ignore_mismatched_sizes=True
        )
    except (OSError, ValueError, RuntimeError, SafetensorError, StrictDataclassError) as error:
        reason = " ".join(str(error).split()).partition(". ")[0].rstrip(".")
        raise click.ClickException(f"{folder}: cannot be loaded: {reason}; run `{command}`") from None
    lost = dict.fromkeys(found["missing_keys"], "in no weight file")
    lost |= {
        name: f"{tuple(stored)} in the weight file, {tuple(wanted)} by config.json"
        for name, stored, wanted in found["mismatched_keys"]
    }
    if lost:
        name = min(lost)
        raise click.ClickException(f"{folder}: {name}: {lost[name]} ({len(lost)} such weights); run `{command}`")
    return network.eval()
