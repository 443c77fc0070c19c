"""Tokenizer of the tiny model: every word that it is trained on is one token, in any position."""

import random

from stage_runs import DEFAULTS

from stages.base.params import BaseParams
from stages.base.tiny_model import CHAT_WORDS, draw_document
from stages.base.tiny_tokenizer import END, PAD, START, train_tokenizer
from stages.common.params import load_params


def test_every_word_is_one_token_in_any_position() -> None:
    tiny = load_params(DEFAULTS, "base", BaseParams).tiny
    rng = random.Random(tiny.seed)
    texts = ("".join(draw_document(rng)) for _ in range(10_000))
    tokenizer = train_tokenizer(texts, tiny.vocab_size, tiny.max_position_embeddings)
    assert len(tokenizer) <= tiny.vocab_size
    for word in CHAT_WORDS:
        alone = tokenizer(word)["input_ids"]
        assert len(alone) == 1, word
        assert tokenizer(f" {word}")["input_ids"][-1:] == alone, word
    special = tokenizer(f"{START}{END}{PAD}")["input_ids"]
    assert special == tokenizer.convert_tokens_to_ids([START, END, PAD])
