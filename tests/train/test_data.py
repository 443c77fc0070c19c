"""Training rows: labels from the loss mask, the order of the rows, and models that mix packed rows."""

from pathlib import Path

import click
import pyarrow as pa
import pytest
from training import write_tokens

from stages.common import chat, files, tokens
from stages.common.tokens import TokenRow

ROWS = [
    TokenRow([5, 6, 7, 8], [0, 0, 1, 1]),
    TokenRow([9], [1]),
    TokenRow([], []),
    TokenRow([1, 0, 2], [0, 1, 0]),
]
LABELS = [[-100, -100, 7, 8], [9], [], [-100, 0, -100]]


@pytest.mark.parametrize("batch_rows", [1, 2, 3, 4])
def test_labels_are_the_ids_in_the_loss(tmp_path: Path, batch_rows: int) -> None:
    from stages.train.data import count_in_loss, labels

    table = tokens.table(write_tokens(tmp_path / "rows.arrow", ROWS, batch_rows))
    assert labels(table).to_pylist() == LABELS
    assert labels(table.slice(1, 2)).to_pylist() == LABELS[1:3]
    assert labels(table.slice(1)).to_pylist() == LABELS[1:]
    assert count_in_loss(table) == 4
    assert count_in_loss(table.slice(1)) == 2


def test_an_empty_batch_of_the_file_has_no_labels(tmp_path: Path) -> None:
    from stages.train.data import labels

    batch = tokens.table(write_tokens(tmp_path / "rows.arrow", ROWS)).to_batches()[0]
    with pa.OSFile(str(tmp_path / "gap.arrow"), "wb") as sink, pa.ipc.new_stream(sink, tokens.SCHEMA) as writer:
        for part in (batch.slice(0, 0), batch, batch.slice(0, 0)):
            writer.write_batch(part)
    assert labels(tokens.table(tmp_path / "gap.arrow")).to_pylist() == LABELS


def test_the_answer_and_its_stop_token_are_in_the_loss(prepared: Path, base: Path) -> None:
    from stages.train.data import load_rows

    tokenizer = chat.load(base).tokenizer
    rows = files.read_rows(prepared / "val.jsonl")
    for row, labels in zip(rows, load_rows(prepared / "val.arrow")["labels"], strict=True):
        in_loss = [label for label in labels if label != -100]
        answer = tokenizer.decode(in_loss, skip_special_tokens=False)
        assert answer == row["messages"][-1]["content"] + "<|im_end|>"


def test_rows_of_similar_length_share_a_batch() -> None:
    from stages.train.data import GroupedByLength

    lengths = [number % 97 for number in range(1000)]
    sampler = GroupedByLength(lengths, 8, seed=7)
    first, again = list(sampler), list(sampler)
    assert first == again
    assert sorted(first) == list(range(1000))
    assert max(lengths[row] for row in first[:8]) == 96
    groups = [[lengths[row] for row in first[start : start + 8]] for start in range(0, 1000, 8)]
    assert sum(max(group) * len(group) for group in groups) < 1.1 * sum(lengths)
    tops = [max(group) for group in groups[1:50]]
    assert tops != sorted(tops, reverse=True)
    sampler.set_epoch(1)
    assert list(sampler) != first


def test_a_model_that_mixes_packed_rows_is_refused() -> None:
    import torch
    import transformers
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    from stages.train.data import require_isolation

    torch.manual_seed(7)
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "vocab_size": 32, "pad_token_id": 0}
    recurrent = transformers.MambaForCausalLM(transformers.MambaConfig(**shape, state_size=4, use_cache=False))
    collate = DataCollatorForLanguageModeling(0, padding_free=True)
    with pytest.raises(click.ClickException) as raised:
        require_isolation(Path("params.yaml"), recurrent, collate)
    assert raised.value.message == (
        "params.yaml: train.sft: MambaForCausalLM with attn_implementation eager mixes packed rows; delete packing "
        "and padding_free, and set train_sampling_strategy: group_by_length, which also needs little padding"
    )


def test_the_rows_of_a_batch_are_named_by_file_and_line(prepared: Path, tmp_path: Path) -> None:
    import torch

    from stages.train.data import row_ids

    row = tokens.read(prepared / "val.arrow")[0]
    batch = {"input_ids": torch.tensor([row.ids]), "attention_mask": torch.ones(1, len(row.ids))}
    (name,) = row_ids(prepared / "val.arrow", {**batch, "attention_mask": batch["attention_mask"].int()})
    file, line = name.split(":")
    raw = (prepared.parents[0] / "raw" / file).read_text(encoding="utf-8").splitlines()[int(line) - 1]
    assert files.read_rows(prepared / "val.jsonl")[0]["messages"][-1]["content"] in raw
    alone = write_tokens(tmp_path / "train.arrow", [TokenRow([1], [1]), row])
    assert row_ids(alone, {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"].int()}) == [
        "train.arrow row 1"
    ]
