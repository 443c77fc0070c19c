"""Benchmarks: the one of training on a GPU, tried on a small model on any device."""

from pathlib import Path

from tools.bench import gpu


def test_the_gpu_benchmark_measures_packed_training(base: Path) -> None:
    shape = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "vocab_size": 1024,
        "tie_word_embeddings": True,
    }
    speed, flops = gpu.measure(shape, 4, "sdpa", {"gradient_checkpointing": True}, length=64, base=base)
    # q and o: 32 x 32, k and v: 32 x 16, three of the MLP: 32 x 64, biases of q, k, v, norms; LoRA of rank 16
    layer = 2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64 + 32 + 16 + 16 + 2 * 32
    lora = 16 * (2 * (32 + 32) + 2 * (32 + 16) + 3 * (32 + 64))
    assert flops == 4 * (2 * (layer + lora) + 32 + 1024 * 32) + 8 * 2 * 32 * 64 / 2
    assert speed > 0
