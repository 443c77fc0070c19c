"""Check a served model from outside, and compare it with training, with eval and with transformers.

Checks health, name and keys; a chat with and without streaming, and 32 at once; the tokens that the server makes of
val rows; greedy answers and log-probabilities against transformers on the same folder; exact match; latency and
throughput. Writes metrics/serve.json, which is not part of the pipeline: its figures are those of this machine.
Exits 1 when a check fails. Run it with `make smoke`, or with `docker/run --no-log python -m tools.smoke`.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from stages.common import chat, files, tokens
from stages.common.params import load_params
from stages.common.tokens import TokenRow
from stages.eval.params import EvalParams
from tools.common import repository
from tools.common.dvc_lock import read_lock
from tools.common.endpoints import Endpoint, require_state
from tools.common.recorded_run import load_run
from tools.common.serve_secrets import load_secrets
from tools.smoke import api, parity
from tools.smoke.api import Verdict

if TYPE_CHECKING:
    from openai import OpenAI


@click.command(help=__doc__)
@click.option("--name", help="The model to check, if several are served.")
@click.option("--rows", default=64, show_default=True, help="Number of val rows to compare with transformers.")
@click.option("--metrics", type=click.Path(path_type=Path), default="metrics/serve.json", show_default=True)
def main(name: str | None, rows: int, metrics: Path) -> None:
    # Params
    params = load_params(Path("params.yaml"), "eval", EvalParams)
    key = load_secrets()["API_KEY"]

    # Inputs
    one = choose(require_state().endpoints, name)
    lock = read_lock(one.rev)
    val = files.read_rows(lock.path("data/prepared/val.jsonl"))[: params.rows]
    encoded = tokens.read(lock.path("data/prepared/val.arrow"), params.rows)
    chats = [index for index, row in enumerate(val) if "messages" in row]
    asked, row_tokens = [val[index] for index in chats], [encoded[index] for index in chats]

    # Work
    verdicts = []
    for verdict in check(one, api.connect(one, key), asked, row_tokens, rows, params):
        click.echo(f"{'ok' if verdict.passed else 'FAILED':7} {verdict.name:18} {verdict.text}")
        verdicts.append(verdict)

    # Outputs
    figures = {name: round(value, 6) for verdict in verdicts for name, value in verdict.figures.items()}
    passed = {verdict.name.replace(" ", "_"): verdict.passed for verdict in verdicts}
    files.write_json(metrics, figures | {"name": one.name, "passed": passed})
    sys.exit(0 if all(passed.values()) else 1)


def check(
    one: Endpoint, client: "OpenAI", rows: list[chat.Row], encoded: list[TokenRow], sample: int, params: EvalParams
) -> Iterator[Verdict]:
    """Run one check after the other. transformers answers only a sample of the rows, as it is slower."""
    limit, chat_tokenizer = params.max_new_tokens, chat.load(Path(one.folder))
    questions = [chat.without_answer(row) for row in rows]
    yield from api.check_access(one, client)
    yield from api.check_chat(one, client, questions, limit)
    yield api.check_latency(one, client, questions, limit)
    yield parity.check_tokens(one, client, rows, encoded)
    replies = parity.ask_all(client, one, rows, limit)
    yield parity.check_exact_match(replies, encoded, chat_tokenizer, eval_exact_match(one))
    yield from parity.check_transformers(one, client, rows[:sample], encoded[:sample], replies[:sample], limit)


def choose(endpoints: list[Endpoint], name: str | None) -> Endpoint:
    """Find the endpoint to check.

    Raises:
        click.ClickException: several are served and no name is given, or none has the name.
    """
    chosen = [one for one in endpoints if name in (None, one.name)]
    if len(chosen) != 1:
        names = ", ".join(one.name for one in endpoints)
        raise click.ClickException(f"{names} are served; name one, for example `make smoke NAME={endpoints[0].name}`")
    return chosen[0]


def eval_exact_match(one: Endpoint) -> float:
    """Return the share of right answers that the eval stage measured for a model."""
    if one.rev is not None:
        scores = load_run(repository.recorded(one.rev))["metrics"][f"eval/{one.kind}"]
    else:
        scores = json.loads(Path(f"metrics/eval/{one.kind}.json").read_text(encoding="utf-8"))
    return float(scores["exact_match"])


if __name__ == "__main__":
    main()
