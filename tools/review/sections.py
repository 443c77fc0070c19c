"""Sections of the review: settings, scores, gates, rows, answers, curves, sizes and times, each as Markdown lines."""

import json
from collections.abc import Callable, Iterator
from typing import Any

from stages.common.drop_reasons import REASONS
from stages.common.scores import AnswerRow
from stages.compare.significance import Bootstrap, compare_pair
from tools.common.model_facts import flat
from tools.review.markdown import DASH, Limits, chart, code, folded, table
from tools.review.run_facts import RunFacts

Rows = Iterator[tuple[str, ...]]
TUNED = ("awq", "merged")
SCORES = ("exact_match", "normalized_exact_match", "rouge_l", "chrf", "stop_rate", "perplexity")
LOWER_IS_BETTER = ("perplexity", "general_perplexity")
COUNTS = ("rows_read", "rows_kept", "rows_train", "rows_val", "rows_calibration", "rows_truncated")
MEASURED = ("preprocess", "train", "merge", "awq", "eval/base", "eval/merged", "eval/awq")
ANSWER_KEYS = ("question", "tools", "text", "reference")


class Pair:
    """The rows that a model answered in both runs.

    Attributes:
        asked: each row's answer now, and before.
        compared: `won`, `lost` and differences with intervals, as in metrics/compare.json; empty without a row.
    """

    def __init__(self, model: str, before: RunFacts, now: RunFacts) -> None:
        """Join the answers of two runs by question and reference, and compare them as the compare stage does."""
        known: dict[str, list[AnswerRow]] = {}
        for row in reversed(before.answers.get(model, [])):
            known.setdefault(_row_key(row), []).append(row)
        self.asked = [
            (row, same.pop()) for row in now.answers.get(model, []) if (same := known.get(_row_key(row), []))
        ]
        params = now.params()
        self.score = params["compare.score"]
        settings = Bootstrap(*(params[f"compare.{key}"] for key in ("resamples", "confidence", "seed")))
        ones, others = ([pair[side] for pair in self.asked] for side in (0, 1))
        self.compared = compare_pair(ones, others, self.score, settings) if self.asked else {}


def _row_key(row: AnswerRow) -> str:
    return json.dumps({key: row.get(key) for key in ANSWER_KEYS}, sort_keys=True)


def settings(before: RunFacts, now: RunFacts, name: str, limits: Limits) -> list[str]:
    """Show the params that differ, and the other inputs: rows, code, environment."""
    old, new = flat(before.params()), flat(now.params())
    keys = [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]
    params = (
        [
            code(key, limits.width),
            *(code(json.dumps(side.get(key), ensure_ascii=False), limits.width) for side in (old, new)),
        ]
        for key in keys
        if not key.startswith("gates.") or not key.endswith(".reason")
    )
    lines = table(("setting", name, "now"), params, limits.rows) if before.stages else []
    old_deps, new_deps, made = before.entries("deps"), now.entries("deps"), now.entries("outs").keys()
    inputs = [path for path in sorted(new_deps) if path not in made and old_deps.get(path) != new_deps[path]]
    if before.stages and inputs:
        shown = ", ".join(code(path, limits.width) for path in inputs[: limits.rows])
        more = f" and {len(inputs) - limits.rows} more" if len(inputs) > limits.rows else ""
        lines += ["", f"Other inputs that changed: {shown}{more}."]
    return lines or (["No setting and no other input of a stage differs."] if before.stages else [])


def scores(before: RunFacts, now: RunFacts, name: str, pairs: dict[str, Pair]) -> list[str]:
    """Show the scores of both runs, and where both answered the same rows, the differences with their intervals."""

    def rows() -> Rows:
        for model in TUNED:
            old, new = (flat(side.metrics.get(f"eval/{model}", {})) for side in (before, now))
            tasks = sorted(key for key in old.keys() | new.keys() if key.startswith("tasks."))
            for score in (*SCORES, "general_perplexity", *tasks):
                if old.get(score) is None and new.get(score) is None:
                    continue
                found = pairs[model].compared.get(score)
                change = _change(old.get(score), new.get(score))
                interval, word = "–", ""  # noqa: RUF001
                if found and found["low"] is not None and (found["low"], found["high"]) != (0, 0):
                    change = f"{found['difference']:+.4g}"
                    interval, word = f"{found['low']:+.4g} to {found['high']:+.4g}", _verdict(score, found)
                yield model, code(score, 80), number(old.get(score)), number(new.get(score)), change, interval, word

    found = pairs[TUNED[0]]
    lines = table(("model", "score", name, "now", "change", "interval", ""), rows(), 60)
    if found.compared:
        of = now.metrics["eval/awq"]["rows"]
        confidence = now.params()["compare.confidence"]
        lines += [
            "",
            f"Changes and {confidence:.0%} intervals are of the {len(found.asked)} of {of} val rows that both runs "
            "have. "
            f"Of the answers of awq {found.compared['won']} are better than before by {code(found.score, 80)}, and "
            f"{found.compared['lost']} worse (McNemar p {number(found.compared['mcnemar_p'])}).",
        ]
    return lines


def gains(before: RunFacts, now: RunFacts, name: str) -> list[str]:
    """Show what each run's metrics/compare.json says of its own models: differences with intervals."""

    def rows() -> Rows:
        for pair in ("merged_base", "awq_merged"):
            one, other = pair.split("_")
            for score in SCORES:
                cells = [
                    _interval(side.metrics.get("compare", {}).get(pair, {}).get(score)) for side in (before, now)
                ]
                if any(cells):
                    yield f"{one} − {other}", code(score, 80), *(cell or "–" for cell in cells)  # noqa: RUF001

    return folded("What each run gains over its base model", table(("models", "score", name, "now"), rows(), 60))


def gates(before: RunFacts, now: RunFacts, name: str) -> list[str]:
    """Show the gates that failed or whose verdict changed, and folded all of them."""
    old, new = (side.metrics.get("gates", {}) for side in (before, now))

    def rows(wanted: Callable[[str], bool]) -> Rows:
        for gate, verdict in new.items():
            if wanted(gate):
                limit = "–" if verdict["limit"] is None else f"{verdict['bound']} {verdict['limit']:g}"  # noqa: RUF001
                earlier = old.get(gate, {})
                words = [
                    f"{number(one.get('value'))} {_word(one)}".strip() if one else DASH for one in (earlier, verdict)
                ]
                yield code(gate, 80), limit, *words

    header = ("gate", "limit", name, "now")
    changed = table(
        header,
        rows(lambda gate: not new[gate]["passed"] or _word(old.get(gate, {})) not in ("", _word(new[gate]))),
        60,
    )
    return [*changed, *folded(f"All {len(new)} gates", table(header, rows(lambda _: True), 60))]


def data(before: RunFacts, now: RunFacts, name: str, limits: Limits) -> list[str]:
    """Show what became of the rows: read, kept, and dropped by reason, and the files whose counts differ."""
    old, new = (side.metrics.get("preprocess", {}) for side in (before, now))

    def counts() -> Rows:
        for key in COUNTS:
            yield key.replace("_", " "), *_counted(old.get(key), new.get(key))
        for kind in ("rows_dropped", "findings"):
            one, other = old.get(kind, {}), new.get(kind, {})
            for key in sorted(one.keys() | other.keys()):
                reason = f"dropped: {REASONS[key][1]}" if key in REASONS else f"{kind.replace('_', ' ')}: "
                yield (
                    f"{reason} {code(key, limits.width)}",
                    *_counted(one.get(key, 0) if old else None, other.get(key, 0)),
                )

    def by_file() -> Rows:
        one, other = old.get("files", {}), new.get("files", {})
        for file in sorted(one.keys() | other.keys()):
            if one.get(file) != other.get(file):
                cells = (_of_file(side.get(file)) for side in (one, other))
                yield code(file, limits.width), *cells

    files = table(("file", name, "now"), by_file(), limits.rows) if old else []
    return [*table(("rows", name, "now", "change"), counts(), 60), *(["", *files] if files else [])]


def answers(pair: Pair, name: str, limits: Limits) -> list[str]:
    """Show a few of awq's answers that changed side by side: those that got worse first, then better, then others."""
    changed = [(now, old) for now, old in pair.asked if "answer" in now and now["answer"] != old["answer"]]
    if not changed:
        return ["No answer of awq changed."] if pair.asked else []
    gained = [float(now[pair.score]) - float(old[pair.score]) for now, old in changed]
    kinds: dict[str, list[int]] = {
        "worse": [place for place, gain in enumerate(gained) if gain < 0],
        "better": [place for place, gain in enumerate(gained) if gain > 0],
        "other": [place for place, gain in enumerate(gained) if gain == 0],
    }
    # One of each kind after the other, so that a few answers show all kinds.
    shares = zip(*(_padded(kinds[kind], len(changed)) for kind in kinds), strict=True)
    shown = [place for share in shares for place in share if place is not None][: limits.answers]

    def rows() -> Rows:
        for place in sorted(shown, key=lambda place: gained[place]):
            now, old = changed[place]
            texts = (_last_question(now), now["reference"], old["answer"], now["answer"])
            word = "worse" if gained[place] < 0 else "better" if gained[place] > 0 else ""
            yield *(code(text, limits.width) for text in texts), word

    counts = ", ".join(f"{len(places)} {kind}" for kind, places in kinds.items() if places)
    lines = table(("question", "reference", name, "now", ""), rows(), limits.answers)
    where = "All are in `metrics/eval/answers.html`."
    return [f"{len(changed)} of {len(pair.asked)} answers of awq changed ({counts}). {where}", "", *lines]


def curves(before: RunFacts, now: RunFacts, name: str) -> list[str]:
    """Draw the loss on train and val rows of both runs."""
    lines = []
    for key, title in (("loss", "loss on train rows"), ("eval_loss", "loss on val rows")):
        found = [side.curves[key] for side in (before, now) if len(side.curves[key]) > 1]
        if found and found[-1] is now.curves[key]:
            lines += chart(title, found)
    colours = f"Grey is {name}, blue is now." if lines and before.curves["loss"] else ""
    return folded("Curves", [colours, *lines]) if lines else []


def sizes_and_times(before: RunFacts, now: RunFacts, name: str, seconds: dict[str, float]) -> list[str]:
    """Show the sizes of the models in both runs, and the times of the last run here."""

    def rows() -> Rows:
        for model in ("base", "adapter", "merged", "awq"):
            old, new = (side.entries("outs").get(f"models/{model}", {}).get("size") for side in (before, now))
            yield f"models/{model}", *_counted(old, new)

    lines = table(("bytes", name, "now", "change"), rows(), 60)
    times = ", ".join(f"{stage} {taken:.0f} s" for stage, taken in seconds.items())
    # A commit holds no times: they are never the same twice.
    said = f"Stages that ran here last: {times}." if times else "No stage ran here: all came from DVC's cache."
    return folded("Sizes and times", [*lines, "", said])


def measurements(before: RunFacts, now: RunFacts, name: str, limits: Limits) -> list[str]:
    """Show every other figure of the metrics that differs."""

    def rows() -> Rows:
        for file in MEASURED:
            old, new = (flat(side.metrics.get(file, {})) for side in (before, now))
            for key in sorted(old.keys() | new.keys()):
                one, other = old.get(key), new.get(key)
                numeric = all(isinstance(value, int | float) for value in (one, other) if value is not None)
                if one != other and numeric and not key.startswith("files."):
                    yield code(f"{file}: {key}", limits.width), number(one), number(other), _change(one, other)

    found = table(("metric", name, "now", "change"), rows(), limits.rows) if before.stages else []
    return folded("All figures that changed", found)


def number(value: float | None) -> str:
    """Format a figure; a dash where it was not measured."""
    if value is None:
        return DASH
    return f"{value:,}" if isinstance(value, int) else f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _change(old: float | None, new: float | None) -> str:
    if old is None or new is None:
        return ""
    return "=" if new == old else f"{'+' * (new > old)}{number(new - old)}"


def _counted(old: int | None, new: int | None) -> tuple[str, str, str]:
    change = "" if old is None or new is None else f"{new - old:+,}" if new != old else "="
    return number(old), number(new), change


def _of_file(counts: dict[str, Any] | None) -> str:
    if counts is None:
        return DASH
    dropped = sum(counts.get("rows_dropped", {}).values())
    return f"{number(counts['rows_read'])} read, {number(dropped)} dropped"


def _interval(found: dict[str, float] | None) -> str:
    if not found:
        return ""
    bounds = "" if found["low"] is None else f" ({found['low']:+.4g} to {found['high']:+.4g})"
    return f"{found['difference']:+.4g}{bounds}"


def _verdict(score: str, found: dict[str, float]) -> str:
    if found["low"] <= 0 <= found["high"]:
        return "" if found["difference"] == 0 else "may be chance"
    return "**better**" if (found["difference"] > 0) != (score in LOWER_IS_BETTER) else "**worse**"


def _word(verdict: dict[str, Any]) -> str:
    if not verdict:
        return ""
    if not verdict["passed"]:
        return "**cannot be judged**" if verdict.get("problem") else "**failed**"
    return "not judged" if verdict["limit"] is None else "passed"


def _last_question(row: AnswerRow) -> str:
    content = row["question"][-1]["content"]
    return content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)


def _padded(places: list[int], length: int) -> list[int | None]:
    return [*places, *([None] * (length - len(places)))]
