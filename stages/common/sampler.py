"""Sampler: the order in which rows are learnt: random, rows of like length together."""

from collections.abc import Iterator

import torch

MEGABATCH = 50  # batches whose rows are sorted together


class GroupedByLength(torch.utils.data.Sampler):
    """Rows in random order, those of a batch of like length, the longest batch first, so that it fails first.

    Drawn anew from the seed for every epoch. The sampler of transformers draws from the global generator, whose state
    a resumed run cannot have, and leaves the batches in order of length.
    """

    def __init__(self, lengths: list[int], size: int, seed: int) -> None:
        self.lengths, self.size, self.seed, self.epoch = lengths, size, seed, 0

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        order = torch.randperm(len(self.lengths), generator=generator).tolist()
        span = MEGABATCH * self.size
        sorted_ = [
            row
            for start in range(0, len(order), span)
            for row in sorted(order[start : start + span], key=lambda row: self.lengths[row], reverse=True)
        ]
        batches = [sorted_[start : start + self.size] for start in range(0, len(sorted_), self.size)]
        rest = batches.pop() if len(batches[-1]) < self.size else []
        drawn = [batches[index] for index in torch.randperm(len(batches), generator=generator).tolist()]
        longest = max(range(len(drawn)), key=lambda index: self.lengths[drawn[index][0]], default=0)
        ordered = [*drawn[longest : longest + 1], *drawn[:longest], *drawn[longest + 1 :], rest]
        return iter([row for batch in ordered for row in batch])

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order is drawn."""
        self.epoch = epoch
