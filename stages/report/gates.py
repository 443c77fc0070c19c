"""Gates: how each one computes its value from the metrics, and the verdicts.

The limits are params (`gates`); `make gate` reads the verdicts and refuses models that failed.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from stages.common import drop_reasons
from stages.common.params import Section

# The files below metrics/ that the gates read, without `.json`.
METRICS = ("preprocess", "train", "merge", "awq", "eval/base", "eval/merged", "eval/awq")
Metrics = dict[str, Any]


class Gate(NamedTuple):
    """One gate.

    Attributes:
        meaning: of its value.
        value: computes the value from METRICS; None where it was not measured.
        hint: what to see when it fails.
        is_empty: whether the value proves nothing whatever the limit, so that the gate fails.
    """

    meaning: str
    value: Callable[[Metrics], float | None]
    hint: str
    is_empty: Callable[[Metrics], bool] = lambda metrics: False


def difference(one: float | None, other: float | None) -> float | None:
    """Subtract; None where one value was not measured."""
    return None if one is None or other is None else round(one - other, 6)


def ratio(one: float | None, other: float | None) -> float | None:
    """Divide; None where one value was not measured, or where there is nothing to divide by."""
    return None if one is None or not other else round(one / other, 6)


def gain(metrics: Metrics, model: str, score: str) -> float | None:
    """Return how much higher a model's score is than that of base."""
    return difference(metrics[f"eval/{model}"][score], metrics["eval/base"][score])


def none_right(metrics: Metrics, model: str, score: str) -> bool:
    """Whether a score is 0 for base and for the model: then 0 - 0 is no gain, and no loss either."""
    return metrics[f"eval/{model}"][score] == metrics["eval/base"][score] == 0


def stop_rate(metrics: Metrics, model: str) -> float | None:
    """Return the share of answers that end, of those that can: references that fit in eval.max_new_tokens."""
    scores = metrics[f"eval/{model}"]
    found = ratio(scores["stop_rate"], scores["fitting_rate"])
    return None if found is None else min(found, 1.0)


def lost_share(data: dict[str, Any]) -> float:
    """Return the share of rows that were dropped though the params do not ask for it."""
    lost = sum(count for reason, count in data["rows_dropped"].items() if reason not in drop_reasons.WANTED)
    return round(lost / data["rows_read"], 6)


# Of a gate whose limit is null.
UNJUDGED: dict[str, Any] = dict.fromkeys(("limit", "bound", "margin")) | {
    "passed": True,
    "reason": "null in params.yaml",
}


ANSWERS = "the answers in metrics/eval/answers.html"
GATES = {
    "rows_dropped_share": Gate(
        "rows dropped / rows read, apart from those that the params drop on purpose",
        lambda metrics: lost_share(metrics["preprocess"]),
        "`rows_dropped` and `examples` in metrics/preprocess.json, then `make trace ROW=...` with such an example",
    ),
    "rows_without_supervised_tokens": Gate(
        "rows without a token in the loss",
        lambda metrics: metrics["preprocess"]["rows_without_supervised_tokens"],
        "`examples` in metrics/preprocess.json: such rows end before an answer, or the template marks none",
    ),
    "rows_without_supervised_stop": Gate(
        "rows that do not end with a stop token in the loss",
        lambda metrics: metrics["preprocess"]["rows_without_supervised_stop"],
        "`make show-tokens`; check the chat template, `base.stop_token`, and plain text, which has no stop token",
    ),
    "train_eval_loss": Gate(
        "loss on the val rows, nats per token in the loss",
        lambda metrics: metrics["train"]["eval_loss"],
        "`make tensorboard` and docs/train.md; where the val loss rises, try fewer epochs, else more epochs or "
        "another `train.sft.learning_rate`",
    ),
    "merge_misplaced_weights": Gate(
        "weights of merged that are not the float32 merge, rounded to the stored dtype",
        lambda metrics: metrics["merge"]["misplaced_weights"],
        "docs/merge.md; such a merge is wrong: `dvc repro merge` again, and compare the versions of PEFT",
    ),
    "merge_kept": Gate(
        "share of the fine-tuning in merged: 1 - KL(adapter, merged) / KL(adapter, base)",
        lambda metrics: metrics["merge"]["kept"],
        "docs/merge.md; `merge.dtype: float32` keeps all of it; a longer training changes more than rounding does",
    ),
    "merge_kl_mean": Gate(
        "KL divergence of merged from base + adapter, nats per token",
        lambda metrics: metrics["merge"]["kl_mean"],
        "docs/merge.md; check the dtype of the base model, and `train.lora.lora_alpha`, which may be too large",
    ),
    "merge_top1_agreement": Gate(
        "share of tokens for which merged and base + adapter have the same most likely token",
        lambda metrics: metrics["merge"]["top1_agreement"],
        "docs/merge.md; check the dtype of the base model, and `train.lora.lora_alpha`, which may be too large",
    ),
    "merged_exact_match_gain": Gate(
        "exact match, merged - base",
        lambda metrics: gain(metrics, "merged", "exact_match"),
        f"{ANSWERS}, and `make tensorboard`; try another `train.sft.learning_rate`; where neither has a right "
        "answer, set `eval.answer.pattern`, or the gate to null for free text",
        lambda metrics: none_right(metrics, "merged", "exact_match"),
    ),
    "merged_chrf_gain": Gate(
        "chrF, merged - base: for free text, where exact matches are rare",
        lambda metrics: gain(metrics, "merged", "chrf"),
        f"{ANSWERS}, and `make tensorboard`; try another `train.sft.learning_rate`",
        lambda metrics: none_right(metrics, "merged", "chrf"),
    ),
    "merged_perplexity_ratio": Gate(
        "perplexity of the reference answers, merged / base",
        lambda metrics: ratio(metrics["eval/merged"]["perplexity"], metrics["eval/base"]["perplexity"]),
        "`make tensorboard`; check that the loss falls, also on the val rows",
    ),
    "merged_stop_rate": Gate(
        "answers of merged that end with a stop token / references that fit in `eval.max_new_tokens`, at most 1",
        lambda metrics: stop_rate(metrics, "merged"),
        f"{ANSWERS}; raise `eval.max_new_tokens` if they are only long, else check the loss mask with "
        "`make show-tokens`",
    ),
    "merged_stop_rate_drop": Gate(
        "share of answers that end with a stop token, base - merged",
        lambda metrics: difference(metrics["eval/base"]["stop_rate"], metrics["eval/merged"]["stop_rate"]),
        f"{ANSWERS}; check the loss mask with `make show-tokens`",
    ),
    "merged_general_perplexity_ratio": Gate(
        "forgetting: perplexity of general text, merged / base",
        lambda metrics: ratio(
            metrics["eval/merged"]["general_perplexity"], metrics["eval/base"]["general_perplexity"]
        ),
        "docs/eval.md; try a lower `train.sft.learning_rate`, fewer epochs, or general rows in data/raw",
    ),
    "merged_tasks_drop": Gate(
        "forgetting: mean score of the tasks in `eval.tasks`, base - merged",
        lambda metrics: difference(metrics["eval/base"]["tasks_mean"], metrics["eval/merged"]["tasks_mean"]),
        "`tasks` in metrics/eval/*.json; try a lower `train.sft.learning_rate`, fewer epochs or more data",
    ),
    "awq_exact_match_drop": Gate(
        "exact match, merged - awq",
        lambda metrics: difference(metrics["eval/merged"]["exact_match"], metrics["eval/awq"]["exact_match"]),
        f"{ANSWERS} and docs/awq.md; try a smaller `awq.group_size` or more `preprocess.calibration_rows`",
    ),
    "awq_exact_match_gain": Gate(
        "exact match, awq - base: what is left of the gain",
        lambda metrics: gain(metrics, "awq", "exact_match"),
        f"{ANSWERS} and docs/awq.md; where merged gains and awq does not, try a smaller `awq.group_size`",
        lambda metrics: none_right(metrics, "awq", "exact_match"),
    ),
    "awq_kept": Gate(
        "share of the fine-tuning in awq: 1 - KL(adapter, awq) / KL(adapter, base)",
        lambda metrics: metrics["awq"]["kept"],
        "docs/awq.md; try a smaller `awq.group_size`, more `preprocess.calibration_rows`, or a longer training",
    ),
    "awq_base_perplexity_ratio": Gate(
        "perplexity of the reference answers, awq / base",
        lambda metrics: ratio(metrics["eval/awq"]["perplexity"], metrics["eval/base"]["perplexity"]),
        "docs/awq.md; above 1, quantisation costs more than training gained; try a smaller `awq.group_size`",
    ),
    "awq_perplexity_ratio": Gate(
        "perplexity of the reference answers, awq / merged",
        lambda metrics: ratio(metrics["eval/awq"]["perplexity"], metrics["eval/merged"]["perplexity"]),
        "docs/awq.md; try a smaller `awq.group_size` or more `preprocess.calibration_rows`",
    ),
    "awq_size_ratio": Gate(
        "size of the weight files, awq / merged",
        lambda metrics: metrics["awq"]["size_ratio"],
        "metrics/awq.json and `awq.ignore`; a small model is mostly embedding, which keeps 16 bits",
    ),
    "awq_stop_rate": Gate(
        "answers of awq that end with a stop token / references that fit in `eval.max_new_tokens`, at most 1",
        lambda metrics: stop_rate(metrics, "awq"),
        f"{ANSWERS} and docs/awq.md; try a smaller `awq.group_size`",
    ),
}


def judge(metrics: Metrics, limits: Section) -> dict[str, dict[str, Any]]:
    """Compute the verdict of every gate.

    Args:
        metrics: contents of METRICS by name.
        limits: a `GatesParams`.

    Returns:
        For each gate `value`, `limit`, `bound` (min or max), `margin`, `passed` and `reason`. The margin is the
        distance from value to limit, below 0 where the gate failed. A gate whose value was not measured passes; one
        whose value proves nothing fails. A gate without a limit is not judged: its limit, bound and margin are None.
    """
    verdicts = {}
    for name, gate in GATES.items():
        limit, value = getattr(limits, name), gate.value(metrics)
        if limit is None:
            verdicts[name] = UNJUDGED | {"value": value}
            continue
        bound, number = ("min", limit.min) if limit.min is not None else ("max", limit.max)
        # Rounded, as 1.05 - 1.01 is not 0.04 in binary; metrics have 6 digits, so no failure can round to 0.
        margin = None if value is None else round(value - number if bound == "min" else number - value, 12)
        verdicts[name] = {
            "value": value,
            "limit": number,
            "bound": bound,
            "margin": margin,
            "passed": margin is None or (margin >= 0 and not gate.is_empty(metrics)),
            "reason": limit.reason,
        }
    return verdicts
