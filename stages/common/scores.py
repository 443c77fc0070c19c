"""Scores: how each answer compares with its reference, and what the answers of one model add up to."""

import math
import re
from types import SimpleNamespace
from typing import Any

# What an answer scores against its reference, from 0 to 1.
MARKS = ("exact_match", "normalized_exact_match", "rouge_l", "chrf")
Row = dict[str, Any]


def of_answers(references: list[str], answers: list[str]) -> list[Row]:
    """Score answers one by one; what equals its reference scores 1 throughout.

    Returns:
        For each answer, from 0 to 1: `exact_match`, blanks at the ends apart; `normalized_exact_match` without case,
        punctuation, articles and the kind of blanks, as SQuAD compares (https://arxiv.org/abs/1606.05250);
        `rouge_l`, the F-measure over words (https://aclanthology.org/W04-1013); `chrf`, of character 1- to 6-grams
        with beta 2 (https://aclanthology.org/W15-3049).
    """
    from rouge_score.rouge_scorer import RougeScorer  # type: ignore[import-untyped]
    from sacrebleu.metrics.chrf import CHRF
    from transformers.data.metrics.squad_metrics import normalize_answer

    overlap, characters = RougeScorer(["rougeL"], tokenizer=SimpleNamespace(tokenize=words)), CHRF()
    rows = []
    for reference, answer in zip(references, answers, strict=True):
        exact = answer.strip() == reference.strip()
        wanted = normalize_answer(reference)  # nothing is left of "A", and that is not what "the" should match
        rows.append(
            {
                "exact_match": exact,
                "normalized_exact_match": exact or (wanted != "" and normalize_answer(answer) == wanted),
                "rouge_l": 1.0 if exact else round(overlap.score(reference, answer)["rougeL"].fmeasure, 6),
                "chrf": 1.0 if exact else round(characters.sentence_score(answer, [reference]).score / 100, 6),
            }
        )
    return rows


def words(text: str) -> list[str]:
    """Split text into words of letters and digits in lower case: on ASCII text as rouge-score does, in any script."""
    return re.findall(r"[^\W_]+", text.lower())


def summary(rows: list[Row], outside: list[Row]) -> Row:
    """Add up the rows of one model.

    Args:
        rows: val rows, each with `loss`, the nats that its learnt tokens cost, and `tokens`, how many of them are
            predicted; where it asks something, with `answer`, `stopped` and what `of_answers` gives.
        outside: `loss` and `tokens` of texts outside the task.

    Returns:
        Means over the rows with an answer, None where there is none; loss and perplexity over the tokens of all rows.
    """
    asked = [row for row in rows if "answer" in row]
    answers = [row["answer"].split() for row in asked]
    tokens, loss, perplexity = likelihood(rows)
    general_tokens, general_loss, general_perplexity = likelihood(outside)
    return {
        "rows": len(rows),
        "rows_answered": len(asked),
        "answer_tokens": tokens,
        "loss": loss,
        "perplexity": perplexity,
        **{score: mean([row[score] for row in asked]) for score in MARKS},
        "stop_rate": mean([row["stopped"] for row in asked]),
        "answer_words_mean": mean([len(answer) for answer in answers]),
        "distinct_1": distinct(answers, 1),
        "distinct_2": distinct(answers, 2),
        "general_rows": len(outside),
        "general_tokens": general_tokens,
        "general_loss": general_loss,
        "general_perplexity": general_perplexity,
    }


def likelihood(rows: list[Row]) -> tuple[int, float, float]:
    """Give the number of tokens, the mean loss per token in nats, and the perplexity: its exponential."""
    tokens = sum(row["tokens"] for row in rows)
    loss = sum(row["loss"] for row in rows) / tokens
    return tokens, round(loss, 6), round(math.exp(loss), 6)


def distinct(answers: list[list[str]], size: int) -> float | None:
    """Give the different n-grams over all answers as a share of their number (https://arxiv.org/abs/1510.03055)."""
    found = [tuple(answer[start : start + size]) for answer in answers for start in range(len(answer) - size + 1)]
    return round(len(set(found)) / len(found), 6) if found else None


def mean(values: list[float]) -> float | None:
    """Give the mean, rounded; of nothing there is none."""
    return round(sum(values) / len(values), 6) if values else None
