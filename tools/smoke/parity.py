"""Parity: whether a server sees the tokens of training, and answers like eval and transformers on the same folder."""

import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from stages.common import chat
from stages.common.chat import ChatTokenizer, Row
from stages.common.tokens import TokenRow
from stages.eval import transformers_backend
from stages.eval.answers import reference
from tools.common.endpoints import Endpoint
from tools.smoke.api import PARALLEL, Reply, Verdict, ask

if TYPE_CHECKING:
    from openai import OpenAI

# The server computes in the model's own bfloat16, transformers on a CPU in float32: 8 bits of mantissa are 0.4 % of a
# logit, and the order of two near-equal logits may change. The committed awq model differs by 0.005 nats, base 0.013.
MEAN_NATS = 0.02
SAME_ANSWERS = 0.95
EXACT_MATCH = 0.02  # largest difference to eval's share of right answers
SEED = 7  # greedy answers draw nothing


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


def check_exact_match(
    replies: list[Reply], encoded: list[TokenRow], chat_tokenizer: ChatTokenizer, known: float
) -> Verdict:
    """Compare the share of right answers with `known`, that of the eval stage."""
    right = [
        reply.text.strip() == reference(row, chat_tokenizer) for reply, row in zip(replies, encoded, strict=True)
    ]
    share = sum(right) / len(right)
    text = f"{share:.4f} of {len(right)} val rows, {known:.4f} in eval; bound {EXACT_MATCH}"
    return Verdict("exact match", round(abs(share - known), 9) <= EXACT_MATCH, text, {"exact_match": share})


def check_transformers(
    one: Endpoint, api: "OpenAI", rows: list[Row], encoded: list[TokenRow], replies: list[Reply], limit: int
) -> list[Verdict]:
    """Compare greedy answers, and log-probabilities of the rows' answers, with transformers on the same folder."""
    folder = Path(one.folder)
    chat_tokenizer = chat.load(folder)
    prompts = chat.encode_prompts(chat_tokenizer, [chat.without_answer(row) for row in rows])
    with transformers_backend.load(folder, chat_tokenizer, SEED) as network:
        answers = transformers_backend.generate(network, prompts, chat_tokenizer, PARALLEL, limit)
        losses = transformers_backend.losses(network, encoded, PARALLEL)
    same = sum(
        _until_stop(reply.ids, chat_tokenizer) == _until_stop(ids, chat_tokenizer)
        for reply, ids in zip(replies, answers, strict=True)
    )
    share = same / len(rows)
    served = _served_losses(one, api, encoded)
    gaps = [abs(a - b) / sum(row.mask) for a, b, row in zip(served, losses, encoded, strict=True)]
    mean, largest = math.fsum(gaps) / len(gaps), max(gaps)
    alike = f"{same} of {len(rows)} equal to transformers; bound {SAME_ANSWERS}"
    near = f"{mean:.5f} nats per token apart on average, {largest:.5f} at most; bound {MEAN_NATS}"
    return [
        Verdict("greedy answers", share >= SAME_ANSWERS, alike, {"same_answers": share}),
        Verdict("log-probabilities", mean <= MEAN_NATS, near, {"logprob_gap_mean": mean, "logprob_gap_max": largest}),
    ]


def _served_losses(one: Endpoint, api: "OpenAI", encoded: list[TokenRow]) -> list[float]:
    """Return the server's negative log-likelihood of each row's assistant tokens, in nats."""

    def loss(row: TokenRow) -> float:
        answer = api.completions.create(
            model=one.name, prompt=row.ids, max_tokens=1, temperature=0, extra_body={"prompt_logprobs": 0}
        )
        logprobs = answer.choices[0].prompt_logprobs  # a field of vLLM's own
        return -sum(
            entry[str(token)]["logprob"]
            for token, counts, entry in zip(row.ids, row.mask, logprobs, strict=True)
            if counts and entry
        )

    with ThreadPoolExecutor(PARALLEL) as threads:
        return list(threads.map(loss, encoded))


def _until_stop(ids: list[int], chat_tokenizer: ChatTokenizer) -> list[int]:
    """Cut an answer before its stop token, which a server may leave out."""
    ends = [position for position, token in enumerate(ids) if token in chat_tokenizer.stop_ids]
    return ids[: ends[0]] if ends else ids
