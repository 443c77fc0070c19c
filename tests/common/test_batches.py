"""Batches: the logits of assistant tokens are those of the whole model at these positions."""

import pytest
import torch
from transformers import AutoModelForCausalLM, Cohere2Config, Gemma3TextConfig, GraniteConfig, LlamaConfig

from stages.common import batches
from stages.common.tokens import TokenRow

SIZES = {
    "vocab_size": 50,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
}
ROWS = [  # the last token of a row predicts nothing, and no token predicts the first
    TokenRow([5, 6, 7, 8, 9], [1, 0, 0, 1, 1]),
    TokenRow([9, 8], [0, 1]),
    TokenRow([1, 2, 3], [0, 0, 0]),
]


@pytest.mark.parametrize(
    "config",
    [
        LlamaConfig(**SIZES),
        Gemma3TextConfig(**SIZES, final_logit_softcapping=3.0),
        GraniteConfig(**SIZES, logits_scaling=4.0),
        Cohere2Config(**SIZES, logit_scale=0.25),
    ],
    ids=lambda config: config.model_type,
)
def test_the_output_layer_at_some_positions_gives_the_models_own_logits(config: object) -> None:
    """Also where the model scales its logits after that layer."""
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(config).eval()
    (batch,) = batches.padded(ROWS, 3)
    with torch.no_grad():
        whole = model(input_ids=batch.ids, attention_mask=batch.attention).logits
        found = batches.answer_logits(model, batch)
    expected = whole[:, :-1][batch.mask[:, 1:].bool()]
    assert found.shape == (3, 50) == expected.shape
    assert torch.allclose(found, expected, atol=1e-6)
    assert batches.answer_tokens(batch).tolist() == [8, 9, 8]


def test_the_model_is_as_before_afterwards_and_after_an_error() -> None:
    model = AutoModelForCausalLM.from_config(LlamaConfig(**SIZES)).eval()
    ids = torch.tensor([[1, 2, 3]])
    with pytest.raises(IndexError), batches.output_at(model, torch.tensor([99])):  # no such position
        model(input_ids=ids)
    assert model(input_ids=ids).logits.shape == (1, 3, 50)
