"""Gates: how each one computes its value from the metrics, and what to do when it fails or cannot be judged.

The limits are params (`gates`).
"""

from collections.abc import Callable
from typing import NamedTuple

from stages.report.figures import Metrics, both_zero, difference, gain, lost_share, ratio, stop_rate

# Why a value may be missing, and what to do.
UNMEASURED = "it was not measured; run `dvc repro`"
NO_ROWS = "no row was read; check data/raw and `preprocess.read`"
NO_QUESTIONS = "no val row has a question and an answer, as with plain text; add such rows"
NO_ENDS = (
    "no reference answer of val fits in `eval.max_new_tokens`, or none has a question; raise it, or add such rows"
)
NO_TASKS = "`eval.tasks` is empty; name tasks there"
NO_CHANGE = "the adapter changes nothing, so no share of it can be kept; train longer, or with a higher learning rate"


class Gate(NamedTuple):
    """One gate.

    Attributes:
        meaning: of its value.
        value: computes the value from METRICS; None where it was not measured.
        hint: what to see when it fails.
        better: which side of a limit is the good one: `min`, where a higher value is better, or `max`.
        unmeasured: why the value may be None, and what to do.
        is_empty: whether the value is 0 - 0, which proves nothing whatever the limit.
    """

    meaning: str
    value: Callable[[Metrics], float | None]
    hint: str
    better: str
    unmeasured: str = UNMEASURED
    is_empty: Callable[[Metrics], bool] = lambda metrics: False


ANSWERS = "the answers in metrics/eval/answers.html"
GATES = {
    "rows_dropped_share": Gate(
        "rows dropped / rows read, apart from those that the params drop on purpose",
        lambda metrics: lost_share(metrics["preprocess"]),
        "`rows_dropped` and `examples` in metrics/preprocess.json, then `make trace ROW=...` with such an example",
        better="max",
        unmeasured=NO_ROWS,
    ),
    "rows_without_supervised_tokens": Gate(
        "rows without a token in the loss",
        lambda metrics: metrics["preprocess"]["rows_without_supervised_tokens"],
        "`examples` in metrics/preprocess.json: such rows end before an answer, or the template marks none",
        better="max",
    ),
    "rows_without_supervised_stop": Gate(
        "rows that do not end with a stop token in the loss",
        lambda metrics: metrics["preprocess"]["rows_without_supervised_stop"],
        "`make show-tokens`; check the chat template, `base.stop_token`, and plain text, which has no stop token",
        better="max",
    ),
    "train_eval_loss": Gate(
        "loss on the val rows, nats per token in the loss",
        lambda metrics: metrics["train"]["eval_loss"],
        "`make tensorboard` and docs/train.md; where the val loss rises, try fewer epochs, else more epochs or "
        "another `train.sft.learning_rate`",
        better="max",
    ),
    "merge_misplaced_weights": Gate(
        "weights of merged that are not the float32 merge, rounded to the stored dtype",
        lambda metrics: metrics["merge"]["misplaced_weights"],
        "docs/merge.md; such a merge is wrong: `dvc repro merge` again, and compare the versions of PEFT",
        better="max",
    ),
    "merge_kept": Gate(
        "share of the fine-tuning in merged: 1 - KL(adapter, merged) / KL(adapter, base)",
        lambda metrics: metrics["merge"]["kept"],
        "docs/merge.md; `merge.dtype: float32` keeps all of it; a longer training changes more than rounding does",
        better="min",
        unmeasured=NO_CHANGE,
    ),
    "merge_kl_mean": Gate(
        "KL divergence of merged from base + adapter, nats per token",
        lambda metrics: metrics["merge"]["kl_mean"],
        "docs/merge.md; check the dtype of the base model, and `train.lora.lora_alpha`, which may be too large",
        better="max",
    ),
    "merge_top1_agreement": Gate(
        "share of tokens for which merged and base + adapter have the same most likely token",
        lambda metrics: metrics["merge"]["top1_agreement"],
        "docs/merge.md; check the dtype of the base model, and `train.lora.lora_alpha`, which may be too large",
        better="min",
    ),
    "merged_exact_match_gain": Gate(
        "exact match, merged - base",
        lambda metrics: gain(metrics, "merged", "exact_match"),
        f"{ANSWERS}, and `make tensorboard`; try another `train.sft.learning_rate`; where neither has a right "
        "answer, set `eval.answer.pattern`, or the gate to null for free text",
        better="min",
        unmeasured=NO_QUESTIONS,
        is_empty=lambda metrics: both_zero(metrics, "merged", "base", "exact_match"),
    ),
    "merged_chrf_gain": Gate(
        "chrF, merged - base: for free text, where exact matches are rare",
        lambda metrics: gain(metrics, "merged", "chrf"),
        f"{ANSWERS}, and `make tensorboard`; try another `train.sft.learning_rate`",
        better="min",
        unmeasured=NO_QUESTIONS,
        is_empty=lambda metrics: both_zero(metrics, "merged", "base", "chrf"),
    ),
    "merged_perplexity_ratio": Gate(
        "perplexity of the reference answers, merged / base",
        lambda metrics: ratio(metrics["eval/merged"]["perplexity"], metrics["eval/base"]["perplexity"]),
        "`make tensorboard`; check that the loss falls, also on the val rows",
        better="max",
    ),
    "merged_stop_rate": Gate(
        "answers of merged that end with a stop token / references that fit in `eval.max_new_tokens`, at most 1",
        lambda metrics: stop_rate(metrics, "merged"),
        f"{ANSWERS}; raise `eval.max_new_tokens` if they are only long, else check the loss mask with "
        "`make show-tokens`",
        better="min",
        unmeasured=NO_ENDS,
    ),
    "merged_stop_rate_drop": Gate(
        "share of answers that end with a stop token, base - merged",
        lambda metrics: difference(metrics["eval/base"]["stop_rate"], metrics["eval/merged"]["stop_rate"]),
        f"{ANSWERS}; check the loss mask with `make show-tokens`",
        better="max",
        unmeasured=NO_QUESTIONS,
        is_empty=lambda metrics: both_zero(metrics, "merged", "base", "stop_rate"),
    ),
    "merged_general_perplexity_ratio": Gate(
        "forgetting: perplexity of general text, merged / base",
        lambda metrics: ratio(
            metrics["eval/merged"]["general_perplexity"], metrics["eval/base"]["general_perplexity"]
        ),
        "docs/eval.md; try a lower `train.sft.learning_rate`, fewer epochs, or general rows in data/raw",
        better="max",
    ),
    "merged_tasks_drop": Gate(
        "forgetting: mean score of the tasks in `eval.tasks`, base - merged",
        lambda metrics: difference(metrics["eval/base"]["tasks_mean"], metrics["eval/merged"]["tasks_mean"]),
        "`tasks` in metrics/eval/*.json; try a lower `train.sft.learning_rate`, fewer epochs or more data",
        better="max",
        unmeasured=NO_TASKS,
        is_empty=lambda metrics: both_zero(metrics, "merged", "base", "tasks_mean"),
    ),
    "awq_exact_match_drop": Gate(
        "exact match, merged - awq",
        lambda metrics: difference(metrics["eval/merged"]["exact_match"], metrics["eval/awq"]["exact_match"]),
        f"{ANSWERS} and docs/awq.md; try a smaller `awq.group_size` or more `preprocess.calibration_rows`",
        better="max",
        unmeasured=NO_QUESTIONS,
        is_empty=lambda metrics: both_zero(metrics, "awq", "merged", "exact_match"),
    ),
    "awq_exact_match_gain": Gate(
        "exact match, awq - base: what is left of the gain",
        lambda metrics: gain(metrics, "awq", "exact_match"),
        f"{ANSWERS} and docs/awq.md; where merged gains and awq does not, try a smaller `awq.group_size`",
        better="min",
        unmeasured=NO_QUESTIONS,
        is_empty=lambda metrics: both_zero(metrics, "awq", "base", "exact_match"),
    ),
    "awq_kept": Gate(
        "share of the fine-tuning in awq: 1 - KL(adapter, awq) / KL(adapter, base)",
        lambda metrics: metrics["awq"]["kept"],
        "docs/awq.md; try a smaller `awq.group_size`, more `preprocess.calibration_rows`, or a longer training",
        better="min",
        unmeasured=NO_CHANGE,
    ),
    "awq_base_perplexity_ratio": Gate(
        "perplexity of the reference answers, awq / base",
        lambda metrics: ratio(metrics["eval/awq"]["perplexity"], metrics["eval/base"]["perplexity"]),
        "docs/awq.md; above 1, quantisation costs more than training gained; try a smaller `awq.group_size`",
        better="max",
    ),
    "awq_perplexity_ratio": Gate(
        "perplexity of the reference answers, awq / merged",
        lambda metrics: ratio(metrics["eval/awq"]["perplexity"], metrics["eval/merged"]["perplexity"]),
        "docs/awq.md; try a smaller `awq.group_size` or more `preprocess.calibration_rows`",
        better="max",
    ),
    "awq_size_ratio": Gate(
        "size of the weight files, awq / merged",
        lambda metrics: metrics["awq"]["size_ratio"],
        "metrics/awq.json and `awq.ignore`; a small model is mostly embedding, which keeps 16 bits",
        better="max",
    ),
    "awq_stop_rate": Gate(
        "answers of awq that end with a stop token / references that fit in `eval.max_new_tokens`, at most 1",
        lambda metrics: stop_rate(metrics, "awq"),
        f"{ANSWERS} and docs/awq.md; try a smaller `awq.group_size`",
        better="min",
        unmeasured=NO_ENDS,
    ),
}
