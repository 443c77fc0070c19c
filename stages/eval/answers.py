"""Answers: score each val row, and add up the scores of all rows.

The last step of eval: what the backend returned (losses and new tokens) becomes the rows of
metrics/eval/MODEL.answers.jsonl and the totals in metrics/eval/MODEL.json.
"""

import math
import re
from types import SimpleNamespace
from typing import Any

import click

from stages.common import chat
from stages.common.chat import ChatTokenizer, Row
from stages.common.scores import ANSWER_SCORES, AnswerRow
from stages.common.tokens import TokenRow


def score_rows(
    rows: list[Row],
    encoded: list[TokenRow],
    losses: list[float],
    completions: list[list[int]],
    chat_tokenizer: ChatTokenizer,
    pattern: str | None = None,
) -> list[AnswerRow]:
    """Score every val row.

    Args:
        rows: conversations and plain texts.
        encoded: their tokens and loss masks.
        losses: nats, summed over each row's tokens in the loss.
        completions: the model's new tokens, for the conversations only.
        chat_tokenizer: the tokenizer and template of the model.
        pattern: eval.answer.pattern.

    Raises:
        click.ClickException: the pattern is in no reference.
    """
    asked = [place for place, row in enumerate(rows) if "messages" in row]
    completed = dict(zip(asked, completions, strict=True))
    scored = []
    for place, (row, tokens, loss) in enumerate(zip(rows, encoded, losses, strict=True)):
        found: AnswerRow = {key: row[key] for key in ("text", "tools") if key in row}
        if place in completed:
            expected = reference(tokens, chat_tokenizer)
            answer, stopped = decode_answer(completed[place], chat_tokenizer)
            found |= {
                "question": chat.without_answer(row)["messages"],
                "reference": expected,
                "answer": answer,
                "stopped": stopped,
            }
            found |= score_answer(expected, answer, pattern)
        scored.append(found | score_loss(tokens, loss))
    if pattern and asked and not any("extracted_reference" in row for row in scored):
        raise click.ClickException(
            f"eval.answer.pattern: {pattern}: in no reference answer, such as {scored[asked[0]]['reference'][-60:]!r}"
            "; correct it, or set it to null"
        )
    return scored


def reference(row: TokenRow, chat_tokenizer: ChatTokenizer) -> str:
    """Decode the last run of tokens in the loss: the answer as the model would write it after its prompt.

    So a tool call is text in the template's own notation, and an empty think block is part of the reference where the
    template does not put it into the prompt. Stop tokens and blanks at the end are left out.
    """
    start, end = last_run(row)
    ids = row.ids[start:end]
    while ids and (ids[-1] in chat_tokenizer.stop_ids or not chat_tokenizer.tokenizer.decode(ids[-1:]).strip()):
        ids.pop()
    return chat_tokenizer.tokenizer.decode(ids).strip()


def last_run(row: TokenRow) -> tuple[int, int]:
    """Find the last run of tokens in the loss: its first token, and the one after it."""
    end = len(row.mask) - row.mask[::-1].index(1)
    return end - [*row.mask[:end][::-1], 0].index(0), end


def decode_answer(ids: list[int], chat_tokenizer: ChatTokenizer) -> tuple[str, bool]:
    """Decode new tokens up to the first stop token, and tell whether there is one."""
    stops = [place for place, token in enumerate(ids) if token in chat_tokenizer.stop_ids]
    return chat_tokenizer.tokenizer.decode(ids[: stops[0]] if stops else ids), bool(stops)


def extract(text: str, pattern: str) -> str | None:
    """Return what a pattern finds last in a text: its first group that took part, or all of it; None if nothing."""
    matches = list(re.finditer(pattern, text))
    if not matches:
        return None
    return next((group for group in matches[-1].groups() if group is not None), matches[-1][0]).strip()


def score_answer(expected: str, answer: str, pattern: str | None = None) -> AnswerRow:
    """Compare an answer with its reference; what equals it scores 1 throughout.

    Args:
        expected: the reference.
        answer: the model's.
        pattern: exact_match and normalized_exact_match compare only what it finds last in both. A reference in which
            it finds nothing is compared whole.

    Returns:
        From 0 to 1: `exact_match`, apart from blanks at both ends; `normalized_exact_match`, which ignores case,
        punctuation, articles and the kind of blanks, as SQuAD does (https://arxiv.org/abs/1606.05250); `rouge_l`, the
        F-measure over words (https://aclanthology.org/W04-1013); `chrf`, over character 1- to 6-grams with beta 2
        (https://aclanthology.org/W15-3049). With a pattern also `extracted_reference` and `extracted`, what it found.
    """
    whole = answer.strip() == expected.strip()
    wanted = extract(expected, pattern) if pattern else None
    if pattern and wanted is not None:
        got = extract(answer, pattern)
        same = {} if got is None else score_answer(wanted, got)
        names = ("exact_match", "normalized_exact_match")
        extracted = {name: same.get(name, False) for name in names}
        return score_answer(expected, answer) | extracted | {"extracted_reference": wanted, "extracted": got}
    from rouge_score.rouge_scorer import RougeScorer  # type: ignore[import-untyped]
    from sacrebleu.metrics.chrf import CHRF
    from transformers.data.metrics.squad_metrics import normalize_answer

    normalized = normalize_answer(expected)  # empty for "A", which must not match "the"
    rouge = RougeScorer(["rougeL"], tokenizer=SimpleNamespace(tokenize=split_words))
    return {
        "exact_match": whole,
        "normalized_exact_match": whole or (normalized != "" and normalize_answer(answer) == normalized),
        "rouge_l": 1.0 if whole else round(rouge.score(expected, answer)["rougeL"].fmeasure, 6),
        "chrf": 1.0 if whole else round(CHRF().sentence_score(answer, [expected]).score / 100, 6),
    }


def split_words(text: str) -> list[str]:
    """Split text into lower-case words of letters and digits: rouge-score's rule for ASCII, here for any script."""
    return re.findall(r"[^\W_]+", text.lower())


def score_loss(row: TokenRow, loss: float) -> AnswerRow:
    """Return the loss of a row in nats, and the number of its tokens in the loss: nothing predicts a row's first."""
    return {"loss": round(loss, 6), "tokens": sum(row.mask[1:])}


def fitting_share(encoded: list[TokenRow], limit: int) -> float | None:
    """Return the share of reference answers that fit in `limit` new tokens with their stop token; None of no rows.

    Args:
        encoded: tokens and loss masks of the conversations.
        limit: eval.max_new_tokens.
    """
    return mean([last_run(row)[1] - last_run(row)[0] <= limit for row in encoded])


def summarize(rows: list[AnswerRow], general: list[AnswerRow], fitting_rate: float | None = None) -> dict[str, Any]:
    """Add up the rows of one model.

    Args:
        rows: the scored val rows.
        general: `loss` and `tokens` of the general texts.
        fitting_rate: from `fitting_share`.

    Returns:
        Means over the conversations, None where there are none; loss and perplexity over the tokens of all rows.
    """
    asked = [row for row in rows if "answer" in row]
    answers = [row["answer"].split() for row in asked]
    tokens, loss, perplexity = likelihood(rows)
    general_tokens, general_loss, general_perplexity = likelihood(general)
    return {
        "rows": len(rows),
        "rows_answered": len(asked),
        "answer_tokens": tokens,
        "loss": loss,
        "perplexity": perplexity,
        **{score: mean([row[score] for row in asked]) for score in ANSWER_SCORES},
        "stop_rate": mean([row["stopped"] for row in asked]),
        "fitting_rate": fitting_rate,
        "answer_words_mean": mean([len(answer) for answer in answers]),
        "distinct_1": distinct(answers, 1),
        "distinct_2": distinct(answers, 2),
        "general_rows": len(general),
        "general_tokens": general_tokens,
        "general_loss": general_loss,
        "general_perplexity": general_perplexity,
    }


def likelihood(rows: list[AnswerRow]) -> tuple[int, float, float]:
    """Return the number of tokens, their mean loss in nats, and the perplexity: its exponential."""
    tokens = sum(row["tokens"] for row in rows)
    loss = sum(row["loss"] for row in rows) / tokens
    return tokens, round(loss, 6), round(math.exp(loss), 6)


def distinct(answers: list[list[str]], size: int) -> float | None:
    """Return the share of different n-grams among all n-grams of the answers (https://arxiv.org/abs/1510.03055)."""
    ngrams = [tuple(answer[start : start + size]) for answer in answers for start in range(len(answer) - size + 1)]
    return round(len(set(ngrams)) / len(ngrams), 6) if ngrams else None


def mean(values: list[float]) -> float | None:
    """Return the mean, rounded; None of an empty list."""
    return round(sum(values) / len(values), 6) if values else None
