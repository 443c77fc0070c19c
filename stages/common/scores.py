"""Scores: the models that eval scores, and what its answer files hold, as compare and the tools read them."""

from typing import Any

MODELS = ("base", "merged", "awq")

# How much an answer equals its reference, from 0 to 1.
ANSWER_SCORES = ("exact_match", "normalized_exact_match", "rouge_l", "chrf")

# One line of metrics/eval/MODEL.answers.jsonl. Every row has `loss` (nats, summed over its tokens in the loss) and
# `tokens` (how many those are). A conversation also has `question`, `reference`, `answer`, `stopped` and
# ANSWER_SCORES, and `tools` where it offers some; plain text has `text`.
AnswerRow = dict[str, Any]
