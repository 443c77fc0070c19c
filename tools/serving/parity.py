"""Parity: whether a server sees the tokens of training, and says what transformers says of the same folder."""

import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from stages.common import answers as speech
from stages.common import chat, hf
from stages.common.chat import Chat, Row
from stages.common.tokens import TokenRow
from tools.serving import trial
from tools.serving.endpoint import Endpoint
from tools.serving.trial import PARALLEL, Reply, Verdict

if TYPE_CHECKING:
    from openai import OpenAI

# The server computes in the model's own bfloat16, transformers on a CPU in float32: 8 bits of mantissa are 0.4 % of a
# logit, and a near-tie may fall the other way. The committed awq model is 0.005 nats off, base 0.013.
MEAN_NATS = 0.02
SAME_ANSWERS = 0.95
EXACT_MATCH = 0.02  # of the share of right answers in eval, to either side
SEED = 7  # greedy answers draw nothing


def rendering(one: Endpoint, api: "OpenAI", rows: list[Row], encoded: list[TokenRow]) -> Verdict:
    """Compare the tokens that the server makes of whole val rows with those of training."""
    whole = {"add_generation_prompt": False}

    def rendered(row: Row) -> list[int]:
        return trial.ask(api, one.name, row, 1, **whole).prompt_ids

    with ThreadPoolExecutor(PARALLEL) as threads:
        seen = list(threads.map(rendered, rows))
    same = sum(ids == row.ids for ids, row in zip(seen, encoded, strict=True))
    return Verdict("tokens", same == len(rows), f"{same} of {len(rows)} val rows have the tokens of training", {})


def answering(api: "OpenAI", one: Endpoint, rows: list[Row], limit: int) -> list[Reply]:
    """Ask every val row's question."""
    with ThreadPoolExecutor(PARALLEL) as threads:
        return list(threads.map(lambda row: trial.ask(api, one.name, speech.question(row), limit), rows))


def exact_match(replies: list[Reply], encoded: list[TokenRow], speaker: Chat, known: float) -> Verdict:
    """Compare the share of right answers with that of the eval stage."""
    right = [reply.text.strip() == speech.wanted(row, speaker) for reply, row in zip(replies, encoded, strict=True)]
    share = sum(right) / len(right)
    words = f"{share:.4f} of {len(right)} val rows, {known:.4f} in eval; bound {EXACT_MATCH}"
    return Verdict("exact match", round(abs(share - known), 9) <= EXACT_MATCH, words, {"exact_match": share})


def agreement(
    one: Endpoint, api: "OpenAI", rows: list[Row], encoded: list[TokenRow], replies: list[Reply], limit: int
) -> list[Verdict]:
    """Compare greedy answers and the log-probabilities of the wanted ones with transformers on the same folder."""
    folder = Path(one.folder)
    speaker = chat.load(folder)
    prompts = chat.encode_prompts(speaker, [speech.question(row) for row in rows])
    with hf.load(folder, speaker, SEED) as network:
        said = hf.answers(network, prompts, speaker, PARALLEL, limit)
        losses = hf.losses(network, encoded, PARALLEL)
    same = sum(_ended(reply.ids, speaker) == _ended(ids, speaker) for reply, ids in zip(replies, said, strict=True))
    share = same / len(rows)
    found = served_losses(one, api, encoded)
    gaps = [abs(a - b) / sum(row.mask) for a, b, row in zip(found, losses, encoded, strict=True)]
    mean, largest = math.fsum(gaps) / len(gaps), max(gaps)
    alike = f"{same} of {len(rows)} as transformers; bound {SAME_ANSWERS}"
    near = f"{mean:.5f} nats a token off on average, {largest:.5f} at most; bound {MEAN_NATS}"
    return [
        Verdict("greedy answers", share >= SAME_ANSWERS, alike, {"same_answers": share}),
        Verdict("log-probabilities", mean <= MEAN_NATS, near, {"logprob_gap_mean": mean, "logprob_gap_max": largest}),
    ]


def served_losses(one: Endpoint, api: "OpenAI", encoded: list[TokenRow]) -> list[float]:
    """Give the nats that each row's learnt tokens cost the server."""

    def loss(row: TokenRow) -> float:
        answer = api.completions.create(
            model=one.name, prompt=row.ids, max_tokens=1, temperature=0, extra_body={"prompt_logprobs": 0}
        )
        chances = answer.choices[0].prompt_logprobs  # vLLM's own
        return -sum(
            entry[str(token)]["logprob"]
            for token, learnt, entry in zip(row.ids, row.mask, chances, strict=True)
            if learnt and entry
        )

    with ThreadPoolExecutor(PARALLEL) as threads:
        return list(threads.map(loss, encoded))


def _ended(ids: list[int], speaker: Chat) -> list[int]:
    """Cut an answer at its stop token, whether that is shown or not."""
    places = [place for place, token in enumerate(ids) if token in speaker.stop_ids]
    return ids[: places[0]] if places else ids
