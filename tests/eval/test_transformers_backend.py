"""The transformers backend: batches give the answers and losses that rows have one by one."""

import json
import shutil
from pathlib import Path

import pytest
from noisy_model import MAX_NEW_TOKENS, NoisyModel, decode, encode, generate_alone, load, with_answers

from stages.common import chat
from stages.eval import transformers_backend
from stages.eval.answers import decode_answer


def answers(folder: Path, prompts: list[list[dict[str, str]]], batch_size: int) -> list[tuple[str, bool]]:
    """Generate with the backend, and decode: each answer, and whether it stopped."""
    chat_tokenizer = chat.load(folder)
    ids = chat.encode_prompts(chat_tokenizer, [{"messages": prompt} for prompt in prompts])
    with transformers_backend.load(folder, chat_tokenizer, 7) as model:
        completions = transformers_backend.generate(model, ids, chat_tokenizer, batch_size, MAX_NEW_TOKENS)
    return [decode_answer(completion, chat_tokenizer) for completion in completions]


def test_the_answers_of_the_noisy_model_differ(noisy_model: NoisyModel) -> None:
    assert len(set(noisy_model.answers)) > 4
    assert 0 < sum(noisy_model.stopped) < len(noisy_model.stopped)


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_answers_equal_those_without_a_batch(noisy_model: NoisyModel, batch_size: int) -> None:
    expected = list(zip(noisy_model.answers, noisy_model.stopped, strict=True))
    assert answers(noisy_model.folder, noisy_model.prompts, batch_size) == expected


def test_generation_is_greedy_whatever_generation_config_says(noisy_model: NoisyModel, tmp_path: Path) -> None:
    folder = shutil.copytree(noisy_model.folder, tmp_path / "sampling")
    file = folder / "generation_config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    config |= {"do_sample": True, "temperature": 5.0, "top_k": 3, "repetition_penalty": 5.0}
    file.write_text(json.dumps(config), encoding="utf-8")
    assert decode(folder, generate_alone(folder, noisy_model.prompts)) != noisy_model.answers
    assert [answer for answer, _ in answers(folder, noisy_model.prompts, 8)] == noisy_model.answers


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_losses_are_those_of_each_row_alone(noisy_model: NoisyModel, batch_size: int) -> None:
    import torch

    rows = with_answers(noisy_model.prompts, ["yes", "apple, fig", "No. " * 9, "2", "", "😀", "Be", "3"])
    rows[0]["messages"] += [{"role": "user", "content": "Really?"}, {"role": "assistant", "content": "Really."}]
    model, tokenizer = load(noisy_model.folder)
    encoded = [encode(tokenizer, row) for row in rows]
    expected = []
    for row in encoded:
        with torch.inference_mode():
            logs = model(torch.tensor([row.ids])).logits[0].double().log_softmax(-1)
        expected.append(
            -sum(logs[place - 1, row.ids[place]].item() for place in range(len(row.ids)) if row.mask[place])
        )
    with transformers_backend.load(noisy_model.folder, chat.load(noisy_model.folder), 7) as loaded:
        losses = transformers_backend.losses(loaded, encoded, batch_size)
    assert losses == pytest.approx(expected, abs=1e-4)
