"""Parity: whether a server sees the tokens of training, and answers like eval and transformers on the same folder.

Two programs that compute in the same dtype differ a little, and where two tokens are nearly equally likely they may
choose differently. How much is measured on the model at hand: transformers computes the same tokens in float32 and in
the served dtype, and the bounds are multiples of that distance.
"""

import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from stages.common import batches, chat
from stages.common.chat import ChatTokenizer, Row
from stages.common.tokens import TokenRow
from stages.eval import transformers_backend
from stages.eval.answers import reference, score_answer
from tools.common.endpoints import Endpoint
from tools.smoke.api import PARALLEL, Reply, Verdict, ask

if TYPE_CHECKING:
    import torch
    from openai import OpenAI
    from transformers import PreTrainedModel

TIMES = 3  # the mean distance to transformers, at most, in distances between float32 and the served dtype
LEAST_NATS = 0.001  # a bound is never below this: a model in float32 has no distance to itself
SAME_ANSWERS = 0.95  # share of answers that transformers would have given, too
EXACT_MATCH = 0.02  # least bound of the difference to eval's shares
SEED = 7  # teacher forcing draws nothing


class Agreement(NamedTuple):
    """How a server compares with transformers.

    Attributes:
        verdicts: of the answers and the log-probabilities.
        undecided: share of answers with a token that is nearly as likely as another one: eval may have another.
    """

    verdicts: list[Verdict]
    undecided: float


def check_tokens(one: Endpoint, api: "OpenAI", rows: list[Row], encoded: list[TokenRow]) -> Verdict:
    """Compare the token ids that the server makes of complete val rows with those of training."""

    def rendered(row: Row) -> list[int]:
        return ask(api, one.name, row, 1, add_generation_prompt=False).prompt_ids

    with ThreadPoolExecutor(PARALLEL) as threads:
        seen = list(threads.map(rendered, rows))
    same = sum(ids == row.ids for ids, row in zip(seen, encoded, strict=True))
    return Verdict("tokens", same == len(rows), f"{same} of {len(rows)} val rows have the tokens of training", {})


def ask_all(api: "OpenAI", one: Endpoint, rows: list[Row], limit: int) -> list[Reply]:
    """Ask the question of every val row."""
    with ThreadPoolExecutor(PARALLEL) as threads:
        return list(threads.map(lambda row: ask(api, one.name, chat.without_answer(row), limit), rows))


def check_prompts(replies: list[Reply], encoded: list[TokenRow]) -> Verdict:
    """Check that each prompt of the server is how a row of training begins, up to the last answer in the loss."""
    same = 0
    for reply, row in zip(replies, encoded, strict=True):
        size = len(reply.prompt_ids)
        follows = row.mask[size - 1 : size + 1] == [0, 1] and bytes([0, 1]) not in bytes(row.mask[size:])
        same += size > 0 and row.ids[:size] == reply.prompt_ids and follows
    text = f"{same} of {len(replies)} prompts are those of training, and the answer follows at once"
    return Verdict("prompts", same == len(replies), text, {})


def check_shares(
    replies: list[Reply],
    encoded: list[TokenRow],
    chat_tokenizer: ChatTokenizer,
    known: dict[str, float],
    undecided: float,
    pattern: str | None = None,
) -> list[Verdict]:
    """Compare the shares of answers that end by themselves and of right answers with those of the eval stage.

    Args:
        replies: the answers to all val rows.
        encoded: these rows, with their references.
        chat_tokenizer: the model's tokenizer.
        known: `stop_rate` and `exact_match` of the eval stage.
        undecided: share of the answers that may differ between eval and the server. The bound is two standard
            deviations of what that many answers change by chance.
        pattern: eval.answer.pattern, by which an answer is right.
    """
    size = len(replies)
    right = sum(
        score_answer(reference(row, chat_tokenizer), reply.text, pattern)["exact_match"]
        for reply, row in zip(replies, encoded, strict=True)
    )
    stopped = sum(reply.finish_reason == "stop" for reply in replies)
    verdicts = []
    for name, key, count in (("stop rate", "stop_rate", stopped), ("exact match", "exact_match", right)):
        share = count / size
        chance = 2 * math.sqrt(2 * undecided * size * known[key] * (1 - known[key])) / size
        bound = max(EXACT_MATCH, round(chance, 4))
        text = f"{share:.4f} of {size} val rows, {known[key]:.4f} in eval; bound {bound:g}"
        verdicts.append(Verdict(name, round(abs(share - known[key]), 9) <= bound, text, {key: share}))
    return verdicts


def check_transformers(
    one: Endpoint,
    api: "OpenAI",
    rows: list[Row],
    encoded: list[TokenRow],
    replies: list[Reply],
    dtype: "torch.dtype",
) -> Agreement:
    """Compare answers and log-probabilities with transformers on the same files, in the served dtype.

    Args:
        one: the endpoint.
        api: its client.
        rows: val rows.
        encoded: their tokens; the server's log-probabilities of their answers are asked for. An adapter's are those
            of the tokens that the server chose.
        replies: the server's greedy answers to them. At each of their tokens transformers sees what the server saw
            (teacher forcing), so that one near-tie does not decide about the rest of an answer.
        dtype: what the server computes in.
    """
    import torch

    folder = Path(one.folder)
    chat_tokenizer = chat.load(folder)
    prompts = chat.encode_prompts(chat_tokenizer, [chat.without_answer(row) for row in rows])
    answered = [_with_prompt(prompt, reply, chat_tokenizer) for prompt, reply in zip(prompts, replies, strict=True)]
    with transformers_backend.load(folder, chat_tokenizer, SEED, one.adapter) as network:
        exact = _likelihoods(_cast(network, torch.float32), [*encoded, *answered])
        near = _likelihoods(_cast(network, dtype), [*encoded, *answered])
    size = len(encoded)
    distances = torch.cat([(one[:, 0] - other[:, 0]).abs() for one, other in zip(exact, near, strict=True)])
    tie = 2 * max(distances.max().item(), LEAST_NATS)
    if one.adapter:  # vLLM computes no log-probabilities of a prompt then
        pairs = [
            (torch.tensor(reply.logprobs[: len(part)]), part[: len(reply.logprobs), 0])
            for reply, part in zip(replies, near[size:], strict=True)
        ]
    else:
        pairs = [(here, there[:, 0]) for here, there in zip(_served(api, one, encoded), near[:size], strict=True)]
    gaps = torch.cat([(here - there).abs() for here, there in pairs])
    bound = max(TIMES * distances.mean().item(), LEAST_NATS)
    mean, largest = gaps.mean().item(), gaps.max().item()
    same = sum(bool((part[:, 1] - part[:, 0] <= tie).all()) for part in near[size:])
    open_ = sum(bool((part[:, 1] - part[:, 2] <= tie).any()) for part in near[size:])
    alike = (
        f"{same} of {len(replies)} are transformers' own at every token, or within {tie:.4f} nats; "
        f"bound {SAME_ANSWERS}"
    )
    close = f"{mean:.5f} nats per token apart on average, {largest:.5f} at most; bound {bound:.5f}"
    figures = {"logprob_gap_mean": mean, "logprob_gap_max": largest, "logprob_gap_bound": bound}
    verdicts = [
        Verdict(
            "greedy answers", same / len(rows) >= SAME_ANSWERS, alike, {"same_answers": same / len(rows), "tie": tie}
        ),
        Verdict("log-probabilities", mean <= bound, close, figures),
    ]
    return Agreement(verdicts, open_ / len(rows))


def _with_prompt(prompt: list[int], reply: Reply, chat_tokenizer: ChatTokenizer) -> TokenRow:
    """Put an answer behind its prompt, with the stop token, which a server may leave out."""
    ids = _until_stop(reply.ids, chat_tokenizer)
    if reply.finish_reason == "stop":
        ids = [*ids, next((token for token in reply.ids[len(ids) :]), min(chat_tokenizer.stop_ids))]
    return TokenRow(prompt + ids, [0] * len(prompt) + [1] * len(ids))


def _cast(network: "PreTrainedModel", dtype: "torch.dtype") -> "PreTrainedModel":
    """Convert the weights. Buffers such as the rotary frequencies stay in float32, as transformers loads them."""
    for weight in network.parameters():
        if weight.is_floating_point():
            weight.data = weight.data.to(dtype)
    return network


def _likelihoods(network: "PreTrainedModel", rows: list[TokenRow]) -> "list[torch.Tensor]":
    """Return for each token in the loss its log-probability, and those of the two likeliest tokens: shape (n, 3)."""
    import torch

    found = []
    with torch.no_grad():  # not inference mode: weights unpacked in the first pass are cast for the second
        for row in rows:
            (batch,) = batches.padded([row], 1)
            logits = batches.answer_logits(network, batch).float().log_softmax(-1)
            target = batches.answer_tokens(batch).to(logits.device)
            both = logits.topk(2).values
            found.append(torch.cat([logits.gather(1, target[:, None]), both], dim=1).cpu())
    return found


def _served(api: "OpenAI", one: Endpoint, encoded: list[TokenRow]) -> "list[torch.Tensor]":
    """Return the server's log-probability of each row's tokens in the loss, in nats."""
    import torch

    def ask_one(row: TokenRow) -> torch.Tensor:
        answer = api.completions.create(
            model=one.name, prompt=row.ids, max_tokens=1, temperature=0, extra_body={"prompt_logprobs": 0}
        )
        logprobs = answer.choices[0].prompt_logprobs  # a field of vLLM's own
        return torch.tensor(
            [
                entry[str(token)]["logprob"]
                for token, counts, entry in zip(row.ids, row.mask, logprobs, strict=True)
                if counts and entry
            ]
        )

    with ThreadPoolExecutor(PARALLEL) as threads:
        return list(threads.map(ask_one, encoded))


def _until_stop(ids: list[int], chat_tokenizer: ChatTokenizer) -> list[int]:
    """Cut an answer before its stop token, which a server may leave out."""
    ends = [position for position, token in enumerate(ids) if token in chat_tokenizer.stop_ids]
    return ids[: ends[0]] if ends else ids
