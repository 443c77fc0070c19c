"""Index page: all recorded runs and DVC experiments, as the values that templates/index.html shows."""

import re
from typing import Any

from tools.common import repository
from tools.common.model_facts import flat, params_of
from tools.common.recorded_run import Run

# Title, name of the metrics file, key, and which way is better, of each column.
COLUMNS = (
    ("eval loss", "train", "eval_loss", "low"),
    ("exact match, merged", "eval/merged", "exact_match", "high"),
    ("exact match, awq", "eval/awq", "exact_match", "high"),
    ("chrF, awq", "eval/awq", "chrf", "high"),
    ("perplexity, awq", "eval/awq", "perplexity", "low"),
    ("kept, awq", "awq", "kept", "high"),
    ("bytes, awq", "awq", "size_bytes", "low"),
    ("rows kept", "preprocess", "rows_kept", "high"),
)
# Of a DVC experiment: refs/exps/ab/cdef.../NAME. DVC keeps others there for itself.
EXPERIMENT = re.compile(r"refs/exps/[0-9a-f]{2}/[0-9a-f]+/(?P<name>.+)")
LABELS = re.compile(r"refs/(?:heads|tags)/(?P<name>.+)")


def names_of_runs() -> dict[str, list[tuple[str, bool]]]:
    """Return branches, tags and experiments by the commit that records their run, and which are experiments."""
    found: dict[str, list[tuple[str, bool]]] = {}
    for line in repository.git("for-each-ref", "--format=%(objectname) %(*objectname) %(refname)").splitlines():
        tip, peeled, ref = line.split(" ", 2)
        for pattern in (EXPERIMENT, LABELS):
            if match := pattern.fullmatch(ref):
                commits = repository.run_commits(repository.Commit(peeled or tip))
                if commits:
                    found.setdefault(commits[0], []).append((match["name"], pattern is EXPERIMENT))
    return found


def index_row(run: Run, names: list[tuple[str, bool]], page: str | None) -> dict[str, Any]:
    """Return the values of one line of the table.

    Args:
        run: from `load_run` or `describe_run`.
        names: of branches, tags and experiments on its commit.
        page: name of the file of its page, if there is one.
    """
    gates = run["gates"].values()
    passed = sum(verdict["passed"] for verdict in gates)
    return {
        "commit": run["commit"],
        "differs": run["differs"],
        "names": names,
        "page": page,
        "passed": passed,
        "gates": len(gates),
        "values": [run["metrics"].get(file, {}).get(key) for _, file, key, _ in COLUMNS],
    }


def compared_facts(runs: list[Run]) -> dict[str, Any]:
    """Return settings and metrics of all runs for the comparison of two: names once, and values run by run."""
    parts = {
        "settings": [flat(params_of(run)) for run in runs],
        "measured": [flat({name: one for name, one in run["metrics"].items() if name != "compare"}) for run in runs],
    }
    found: dict[str, Any] = {}
    for part, values in parts.items():
        names = sorted({name for one in values for name in one})
        found[part] = {"names": names, "values": [[one.get(name) for name in names] for one in values]}
    return found
