"""Training loop: the loss that is trained on, and a loss that explodes."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from training import scores

from stages.common import files


def test_the_loss_is_that_of_the_answers_alone(adapter: Path, workspace: Path, prepared: Path, base: Path) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), adapter).eval()
    losses = []
    for row in files.read_rows(prepared / "val.jsonl"):
        encoded = tokenizer.apply_chat_template(
            row["messages"], return_dict=True, return_assistant_tokens_mask=True, return_tensors="pt"
        )
        with torch.inference_mode():
            logits = model(encoded["input_ids"]).logits[0, :-1]
        chosen = torch.as_tensor(encoded["assistant_masks"]).reshape(-1)[1:].bool()
        targets = encoded["input_ids"][0, 1:]
        losses.append(torch.nn.functional.cross_entropy(logits[chosen], targets[chosen], reduction="none"))
    assert scores(workspace)["eval_loss"] == pytest.approx(torch.cat(losses).mean().item(), abs=2e-6)


@pytest.mark.slow
def test_a_loss_that_explodes_names_step_and_rows(refuse: Callable[..., str]) -> None:
    message = refuse(
        {
            "train.sft.learning_rate": 1e30,
            "train.sft.max_grad_norm": 0.0,
            "train.sft.num_train_epochs": 3,
            "train.machine.device_batch_size": 2,
            "train.machine.save_steps": 1,
        }
    )
    pattern = (
        r"params\.yaml: train: the loss is (nan|[\d.e+]+) at step (\d+), in a batch of the rows "
        r"rows\.jsonl:\d+, rows\.jsonl:\d+; check them, lower train\.sft\.learning_rate or raise "
        r"train\.sft\.warmup_steps \(with the same params it resumes from step (\d+)\)"
    )
    match = re.fullmatch(pattern, message)
    assert match, message
    assert int(match[3]) == int(match[2]) - 1
