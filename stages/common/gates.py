"""Gates: what each one measures, and where to look when it fails."""

from collections.abc import Callable
from typing import Any, NamedTuple

from stages.common import checks

Metrics = dict[str, Any]


class Gate(NamedTuple):
    """One gate.

    Attributes:
        meaning: what its value is.
        value: computes it from the metrics, which are named as their files; None where these rows cannot tell.
        look: what to look at when it fails.
    """

    meaning: str
    value: Callable[[Metrics], float | None]
    look: str


def difference(one: float | None, other: float | None) -> float | None:
    """Subtract, where both were measured."""
    return None if one is None or other is None else round(one - other, 6)


def ratio(one: float | None, other: float | None) -> float | None:
    """Divide, where both were measured."""
    return None if one is None or other is None else round(one / other, 6)


def lost_share(data: dict[str, Any]) -> float:
    """Give the share of rows lost for reasons that the params do not ask for."""
    lost = sum(count for reason, count in data["rows_dropped"].items() if reason not in checks.WANTED)
    return round(lost / data["rows_read"], 6)


ANSWERS = "metrics/eval/answers.html, the answers side by side"
GATES = {
    "rows_dropped_share": Gate(
        "rows lost / rows read; those that the params leave out on purpose are not lost",
        lambda metrics: lost_share(metrics["preprocess"]),
        "`rows_dropped` and `examples` in metrics/preprocess.json, then `make trace ROW=...` with such an example",
    ),
    "rows_without_supervised_tokens": Gate(
        "rows in which nothing would be learnt",
        lambda metrics: metrics["preprocess"]["rows_without_supervised_tokens"],
        "`examples` in metrics/preprocess.json: such rows end before an answer, or the template marks none",
    ),
    "rows_without_supervised_stop": Gate(
        "rows that do not end with a learnt stop token",
        lambda metrics: metrics["preprocess"]["rows_without_supervised_stop"],
        "`make show-tokens`: the chat template, `base.stop_token`, and rows of plain text, which have no stop",
    ),
    "train_eval_loss": Gate(
        "loss on the val rows, nats per learnt token",
        lambda metrics: metrics["train"]["eval_loss"],
        "`make tensorboard`, docs/train.md: more epochs or another `train.sft.learning_rate`; where val rises, fewer",
    ),
    "merge_kl_mean": Gate(
        "KL divergence of merged from base + adapter, nats per token",
        lambda metrics: metrics["merge"]["kl_mean"],
        "docs/merge.md: the dtype of the base model, a very large `train.lora.lora_alpha`",
    ),
    "merge_top1_agreement": Gate(
        "share of tokens for which merged and base + adapter have the same first choice",
        lambda metrics: metrics["merge"]["top1_agreement"],
        "docs/merge.md: the dtype of the base model, a very large `train.lora.lora_alpha`",
    ),
    "merged_exact_match_gain": Gate(
        "exact match, merged - base",
        lambda metrics: difference(metrics["eval/merged"]["exact_match"], metrics["eval/base"]["exact_match"]),
        f"{ANSWERS}; then `make tensorboard` and `train.sft.learning_rate`",
    ),
    "merged_perplexity_ratio": Gate(
        "perplexity of the reference answers, merged / base",
        lambda metrics: ratio(metrics["eval/merged"]["perplexity"], metrics["eval/base"]["perplexity"]),
        "`make tensorboard`: does the loss fall, and does it on val rows, too?",
    ),
    "merged_stop_rate": Gate(
        "share of answers of merged that end by themselves",
        lambda metrics: metrics["eval/merged"]["stop_rate"],
        f"{ANSWERS}: are they only long (`eval.max_new_tokens`)? Else `make show-tokens`: is the stop token learnt?",
    ),
    "merged_general_perplexity_ratio": Gate(
        "forgetting: perplexity of general text, merged / base",
        lambda metrics: ratio(
            metrics["eval/merged"]["general_perplexity"], metrics["eval/base"]["general_perplexity"]
        ),
        "docs/eval.md; a lower `train.sft.learning_rate`, fewer epochs, general rows among those of data/raw",
    ),
    "merged_tasks_drop": Gate(
        "forgetting: mean score of the tasks in `eval.tasks`, base - merged",
        lambda metrics: difference(metrics["eval/base"]["tasks_mean"], metrics["eval/merged"]["tasks_mean"]),
        "`tasks` in metrics/eval/*.json; a lower `train.sft.learning_rate`, fewer epochs, more rows in data/raw",
    ),
    "awq_exact_match_drop": Gate(
        "exact match, merged - awq",
        lambda metrics: difference(metrics["eval/merged"]["exact_match"], metrics["eval/awq"]["exact_match"]),
        f"{ANSWERS}; a smaller `awq.group_size`, more `preprocess.calibration_rows`, docs/awq.md",
    ),
    "awq_perplexity_ratio": Gate(
        "perplexity of the reference answers, awq / merged",
        lambda metrics: ratio(metrics["eval/awq"]["perplexity"], metrics["eval/merged"]["perplexity"]),
        "docs/awq.md: a smaller `awq.group_size`, more `preprocess.calibration_rows`",
    ),
    "awq_size_ratio": Gate(
        "size of the weight files, awq / merged",
        lambda metrics: metrics["awq"]["size_ratio"],
        "metrics/awq.json and `awq.ignore`; a small model is mostly embedding, which stays in 16 bit",
    ),
    "awq_stop_rate": Gate(
        "share of answers of awq that end by themselves",
        lambda metrics: metrics["eval/awq"]["stop_rate"],
        f"{ANSWERS}; a smaller `awq.group_size`, docs/awq.md",
    ),
}
