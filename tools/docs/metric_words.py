"""Metrics: every key of metrics/*.json with its meaning, as a table for docs/metrics.md."""

import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from stages.common import files
from stages.common.scores import MODELS

# By file: each key, or a pattern of keys, and its meaning. A loss is the mean of nats per token.
WORDS: dict[str, dict[str, str]] = {
    "preprocess.json": {
        "rows_read": "rows in data/raw that were looked at",
        "rows_kept": "rows in train and val together; rows read = rows kept + rows dropped",
        "rows_train": "rows to train on",
        "rows_val": "rows to score on, never trained on",
        "rows_calibration": "rows of train that AWQ may calibrate on",
        "rows_dropped.*": "dropped rows by reason ([data](data.md) lists the reasons)",
        "rows_truncated": "rows of which a part was cut, with `preprocess.over_length: truncate`",
        "rows_without_supervised_tokens": "rows with no token in the loss, which teach nothing and are dropped",
        "rows_without_supervised_stop": "kept rows with an answer in the loss that has no stop token in it",
        "tokens_truncated": "tokens that were cut",
        "tokens.*": "length of the kept rows in tokens: median, percentiles and longest",
        "supervised_share": "share of the kept tokens that is in the loss",
        "turns": "answers in the loss",
        "turns_not_as_served": "earlier answers out of the loss: a server would render their prompt in another way",
        "turns_without_their_stop": "answers in the loss without their last token: the template ends them otherwise",
        "findings.*": "rows with what looks like a key, a mail address and so on, by kind",
        "details.*": "the most frequent causes of a drop reason, with the number of rows",
        "examples.*": "ids of the first rows with a drop reason or a finding",
        "files.*": "the same counts for one file, its format, and its columns that nothing reads",
    },
    "train.json": {
        "eval_loss": "loss on val of the weights that were kept; the same for every batch size",
        "steps": "optimizer steps",
        "rows_train": "rows of an epoch",
        "rows_val": "rows that `eval_loss` is over",
        "supervised_tokens": "tokens of train that are in the loss",
        "trainable_parameters": "weights that were trained",
        "total_parameters": "all weights, those of the adapter included",
    },
    "train/metrics.json": {
        "step": "the step of the last point of each curve",
        "loss": "loss of the last logged steps",
        "eval_loss": "loss on val at the last evaluation",
        "learning_rate": "learning rate at that step",
        "grad_norm": "norm of the gradients before they are clipped",
        "num_input_tokens_seen": "tokens that the model has read, without padding",
    },
    "merge.json": {
        "kl_mean": "KL divergence of merged from base + adapter on val rows: nats per token, mean",
        "kl_max": "the same at the worst token",
        "kl_base_mean": "KL divergence of base from base + adapter: what the training changed",
        "kept": "share of the fine-tuning in merged: 1 - `kl_mean` / `kl_base_mean`",
        "top1_agreement": "share of tokens for which both have the same most likely token",
        "rows": "val rows of the comparison",
        "tokens": "tokens of the comparison",
        "merged_tensors": "tensors that the adapter changed",
        "checked_tensors": "tensors that were compared with PEFT's own merge in float32",
        "misplaced_weights": "weights that are not that merge, rounded to the stored dtype",
        "size_bytes": "size of models/merged",
        "base_size_bytes": "size of models/base",
    },
    "awq.json": {
        "quantized_modules": "layers that were quantised, counted in the written files",
        "expected_modules": "layers that should be",
        "calibration_rows": "rows that were used",
        "kl_mean": "KL divergence of awq from base + adapter on val rows: nats per token, mean",
        "kl_max": "the same at the worst token",
        "kept": "share of the fine-tuning in awq",
        "top1_agreement": "share of tokens for which both have the same most likely token",
        "reload_kl_mean": "KL divergence of the written model, loaded again, from the one in memory",
        "rows": "val rows of the comparison",
        "tokens": "tokens of the comparison",
        "size_bytes": "size of models/awq",
        "merged_size_bytes": "size of models/merged",
        "size_ratio": "the one divided by the other",
    },
    "eval/MODEL.json": {
        "rows": "val rows that were scored",
        "rows_answered": "conversations among them, which are all rows but plain text",
        "loss": "loss over the reference answers with their stop token, and over plain text",
        "perplexity": "e to the power of that loss",
        "answer_tokens": "number of these tokens",
        "exact_match": "share of answers that equal the reference",
        "normalized_exact_match": "the same without case, punctuation, articles and the kind of blanks",
        "rouge_l": "mean ROUGE-L F-measure: words in common, in order",
        "chrf": "mean chrF from 0 to 1: groups of characters in common",
        "distinct_*": "share of different words, and word pairs, among all of all answers",
        "answer_words_mean": "words per answer",
        "stop_rate": "share of answers that end with a stop token within `eval.max_new_tokens`",
        "fitting_rate": "share of references that fit in `eval.max_new_tokens`",
        "general_rows": "general texts",
        "general_tokens": "their tokens",
        "general_loss": "loss over them: what the model forgot, compared with base",
        "general_perplexity": "e to the power of that loss",
        "tasks.*": "scores of the tasks of lm-evaluation-harness",
        "tasks_mean": "mean of those scores of which more is better",
    },
    "compare.json": {
        "*.rows": "val rows that are conversations; merged_base: merged against base, and so on",
        "*.won": "rows on which the first model has the higher `compare.score`",
        "*.lost": "rows on which it has the lower one",
        "*.mcnemar_p": "chance of so uneven a split if both were equally good",
        "*.difference": "first minus second model, of each score",
        "*.low": "lower bound of its bootstrap interval",
        "*.high": "upper bound of it",
    },
    "gates.json": {
        "*.value": "the value of a gate ([report](report.md) lists the gates)",
        "*.limit": "the limit in params.yaml",
        "*.bound": "whether the limit is the least (`min`) or the most (`max`)",
        "*.margin": "how far the value is on the good side of the limit",
        "*.passed": "the verdict",
        "*.reason": "the reason in params.yaml",
        "*.problem": "why the value cannot be judged, where it cannot",
        "*.not_worse_than": "the git revision whose run sets the limit, where params.yaml names one",
    },
    "lineage.json": {
        "base.*": "name, revision and architecture of the base model",
        "files": "path, size and hashes of every file of rows and models, and of the environment's lock",
        "rows.*": "the counts of preprocess",
    },
}


def metrics_table() -> str:
    """Write every key of the metrics with its meaning as a table."""
    lines = ["| file | key | meaning |", "|---|---|---|"]
    for file, words in WORDS.items():
        lines += [f"| `metrics/{file}` | {shown(key)} | {meaning} |" for key, meaning in words.items()]
    return "\n".join(lines)


def without_meaning(metrics: Path) -> list[str]:
    """List the keys of metrics files that have no meaning in this module."""
    missing = []
    for file, words in WORDS.items():
        for path in [metrics / file.replace("MODEL", model) for model in (MODELS if "MODEL" in file else [""])]:
            found = keys(files.read_json(path))
            missing += [f"{path}: {key}" for key in found if not any(fnmatchcase(key, one) for one in words)]
    return missing


def keys(values: dict[str, Any], above: str = "") -> Iterator[str]:
    """Yield the keys of nested objects, with dots."""
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from keys(value, f"{above}{key}.")
        elif value != {}:
            yield f"{above}{key}"


def shown(pattern: str) -> str:
    """Write a pattern of keys as code: NAME stands for what varies."""
    return f"`{re.sub('[*]', 'NAME', pattern)}`"
