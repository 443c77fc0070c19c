"""Ignored layers: each entry of awq.ignore must name a linear layer, which is checked before the weights are read."""

import contextlib
import difflib
import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from torch.nn import Module

# vLLM computes these layers of a block at once, and refuses a model in which only some of them are quantised.
JOINED = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))


def require_matches(network: "Module", ignore: list[str], params: Path) -> None:
    """Fail if an entry keeps no linear layer in 16 bits.

    Args:
        network: the model, or its outline.
        ignore: awq.ignore: names, patterns after `re:`, or classes.
        params: the params file, for messages.

    Raises:
        click.ClickException: an entry matches no layer, or only modules that are not linear layers.
    """
    from compressed_tensors.utils import match_named_modules

    linear = dict(match_named_modules(network, ["Linear"]))
    for entry in ignore:
        found = [name for name, _ in match_named_modules(network, [entry])]
        if linear.keys() & found:
            continue
        if not found:
            problem = f"matches no layer of the model{_near(entry, list(linear))}"
        elif inside := [name for name in found if any(layer.startswith(f"{name}.") for layer in linear)]:
            whole = f"re:{re.escape(inside[0])}\\..*"
            problem = f"matches no linear layer, only modules that hold some; did you mean `{whole}`?"
        else:
            problem = "matches no linear layer, and nothing else is quantised; remove it"
        raise click.ClickException(f"{params}: awq.ignore: {entry!r} {problem}")


def split_layers(network: "Module", quantized: set[str]) -> list[str]:
    """List ignored layers that vLLM joins with quantised ones.

    Args:
        network: the model, or its outline.
        quantized: names of the layers to quantise.
    """
    names = {name for name, _ in network.named_modules()}
    found = []
    for name in sorted(names - quantized):
        block, _, last = name.rpartition(".")
        joined = next((group for group in JOINED if last in group), ())
        if quantized & {f"{block}.{other}" for other in joined}:
            found.append(name)
    return found


def _near(entry: str, layers: list[str]) -> str:
    """Suggest what an entry that matches nothing may mean: a pattern that does match, or a layer with a near name."""
    text = entry.removeprefix("re:")
    tails = {layer.rpartition(".")[2]: layer for layer in reversed(layers)}
    # A pattern that does not begin with .*, the last part of a name, a shell's pattern.
    tries = [f".*{text}"] if entry != text else [f".*{text}$"] if text in tails else [text.replace("*", ".*")]
    for pattern in tries if re.search(r"\w", text) else []:
        with contextlib.suppress(re.error):
            if any(re.match(pattern, layer) for layer in layers):
                return f"; did you mean `re:{pattern}`?"
    words = re.findall(r"\w+", text)
    if close := difflib.get_close_matches(text, layers, n=1):
        return f"; did you mean `{close[0]}`?"
    if words and (close := difflib.get_close_matches(words[-1], tails, n=1)):
        return f"; a near name is {tails[close[0]]}"
    return f"; the model has layers such as {layers[-1]}" if layers else ""
