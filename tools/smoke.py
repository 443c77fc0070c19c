"""Ask what is served, from outside, and compare it with training, with eval and with transformers.

Health, name and keys; a chat, streamed and not, and 32 at once; the tokens that the server makes of val rows; greedy
answers and log-probabilities against transformers on the same folder; exact match; latency and throughput. Writes
metrics/serve.json, which is no part of the pipeline: it holds what this machine measured. Run it with `make smoke`,
or with `docker/run --no-log python -m tools.smoke`.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from stages.common import answers as speech
from stages.common import chat, files, settings
from stages.common.tokens import TokenRow
from stages.eval import EvalParams, read_val
from tools.common import repository, run, version
from tools.serving import endpoint, keys, parity, trial
from tools.serving.endpoint import Endpoint
from tools.serving.trial import Verdict

if TYPE_CHECKING:
    from openai import OpenAI


@click.command(help=__doc__)
@click.option("--name", help="Which one, where several models are served.")
@click.option("--rows", default=64, show_default=True, help="Val rows that transformers answers, too.")
@click.option("--metrics", type=click.Path(path_type=Path), default="metrics/serve.json", show_default=True)
def main(name: str | None, rows: int, metrics: Path) -> None:
    # Params
    params = settings.load(Path("params.yaml"), "eval", EvalParams)
    key = keys.load()["API_KEY"]

    # Inputs
    one = choose(endpoint.serving().endpoints, name)
    here = version.load(one.rev)
    val, encoded = read_val(here.path("data/prepared/val.jsonl"), here.path("data/prepared/val.arrow"), params.rows)
    asked = [place for place, row in enumerate(val) if "messages" in row]

    # Work
    found = []
    for verdict in verdicts(
        one, trial.client(one, key), [val[n] for n in asked], [encoded[n] for n in asked], rows, params
    ):
        click.echo(f"{'ok' if verdict.passed else 'FAILED':7} {verdict.name:18} {verdict.words}")
        found.append(verdict)

    # Outputs
    figures = {name: round(value, 6) for verdict in found for name, value in verdict.figures.items()}
    passed = {verdict.name.replace(" ", "_"): verdict.passed for verdict in found}
    files.write_json(metrics, figures | {"name": one.name, "passed": passed})
    sys.exit(0 if all(passed.values()) else 1)


def verdicts(
    one: Endpoint, api: "OpenAI", rows: list[chat.Row], encoded: list[TokenRow], sample: int, params: EvalParams
) -> Iterator[Verdict]:
    """Check one thing after the other; what is asked of transformers, too, is a sample."""
    limit, speaker = params.max_new_tokens, chat.load(Path(one.folder))
    questions = [speech.question(row) for row in rows]
    yield from trial.doors(one, api)
    yield from trial.talk(one, api, questions, limit)
    yield trial.latency(one, api, questions, limit)
    yield parity.rendering(one, api, rows, encoded)
    replies = parity.answering(api, one, rows, limit)
    yield parity.exact_match(replies, encoded, speaker, known(one))
    yield from parity.agreement(one, api, rows[:sample], encoded[:sample], replies[:sample], limit)


def choose(endpoints: list[Endpoint], name: str | None) -> Endpoint:
    """Find the one that is asked.

    Raises:
        click.ClickException: there are several, or none of that name.
    """
    chosen = [one for one in endpoints if name in (None, one.name)]
    if len(chosen) != 1:
        names = ", ".join(one.name for one in endpoints)
        raise click.ClickException(
            f"served are {names}; name one of them, such as `make smoke NAME={endpoints[0].name}`"
        )
    return chosen[0]


def known(one: Endpoint) -> float:
    """Give the share of right answers that the eval stage found for a model."""
    if one.rev is not None:
        found = run.load(repository.recorded(one.rev))["metrics"][f"eval/{one.kind}"]
    else:
        found = json.loads(Path(f"metrics/eval/{one.kind}.json").read_text(encoding="utf-8"))
    return float(found["exact_match"])


if __name__ == "__main__":
    main()
