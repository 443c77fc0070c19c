"""Tokenizer class: transformers and vLLM must read tokenizer.json as it is written, and not build another from it."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from stages.base.probes import TEXT
from stages.common import files

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# It takes tokenizer.json unchanged. transformers 5 calls it TokenizersBackend, and reads this name, too, as 4 does.
PLAIN = "PreTrainedTokenizerFast"


def load(folder: Path) -> tuple["PreTrainedTokenizerBase", str | None]:
    """Load the tokenizer as transformers and vLLM do, and make sure that it gives the tokens of tokenizer.json.

    The class in tokenizer_config.json decides how transformers 5 splits a text, whatever tokenizer.json says. Where
    that gives other tokens, the class is replaced by the plain one: DeepSeek names LlamaTokenizerFast, which drops
    all blanks.

    Args:
        folder: a folder with tokenizer and config.json.

    Returns:
        The tokenizer, and the name of the class that was replaced, if one was.

    Raises:
        click.ClickException: the plain class gives other tokens, too, or the tokenizer cannot be loaded.
    """
    tokenizer = _load(folder)
    if not differs(folder, tokenizer):
        return tokenizer, None
    file = folder / "tokenizer_config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    replaced = config.get("tokenizer_class")
    files.write_json(file, config | {"tokenizer_class": PLAIN})
    tokenizer = _load(folder)
    if problem := differs(folder, tokenizer):
        raise click.ClickException(
            f"{folder / 'tokenizer.json'}: {type(tokenizer).__name__} of transformers gives other tokens: {problem}; "
            "choose a revision whose tokenizer.json and tokenizer_config.json belong together"
        )
    return tokenizer, replaced


def differs(folder: Path, tokenizer: "PreTrainedTokenizerBase") -> str:
    """Return the first difference between a loaded tokenizer and tokenizer.json on the probe text, or ""."""
    from tokenizers import Tokenizer

    file = Tokenizer.from_file(str(folder / "tokenizer.json"))
    file.no_padding()
    file.no_truncation()
    added = [token.content for token in file.get_added_tokens_decoder().values()]
    special = "".join(token for token in (*added[:8], *added[-8:]) if token.strip())
    for text in ("", TEXT, f"a {special} b"):
        for opening in (False, True):
            expected = file.encode(text, add_special_tokens=opening)
            found = tokenizer.encode(text, add_special_tokens=opening)
            if list(found) != expected.ids:
                names = tokenizer.convert_ids_to_tokens(found)
                pairs = enumerate(zip(names, expected.tokens, strict=False))
                at = next((n for n, (name, other) in pairs if name != other), 0)
                return f"{names[at : at + 3]} for {expected.tokens[at : at + 3]}"
    return ""


def _load(folder: Path) -> "PreTrainedTokenizerBase":
    from transformers import AutoTokenizer

    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (AttributeError, ImportError, LookupError, OSError, TypeError, ValueError) as error:
        problem = (str(error) or type(error).__name__).splitlines()[0]
        raise click.ClickException(
            f"{folder / 'tokenizer_config.json'}: transformers cannot load the tokenizer ({problem}); choose "
            "another model"
        ) from None
    return tokenizer
