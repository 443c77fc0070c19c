"""Check a served model from outside, and compare it with training, with eval and with transformers.

Checks health, name and keys; a chat with and without streaming, and 32 at once; the tokens and prompts that the
server makes of val rows; each token of greedy answers, and log-probabilities, against transformers on the same
folder; the shares of right answers and of answers that end, against eval; latency and throughput. Writes
metrics/serve.json, which is not part of the pipeline: its figures are those of this machine. Exits 1 when a check
fails. Run it with `make smoke`, or with `docker/run --no-log python -m tools.smoke`.
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
from stages.report import fingerprints
from tools.common import dvc_cache, repository
from tools.common.dvc_lock import read_lock
from tools.common.endpoints import Endpoint, require_state
from tools.common.recorded_run import load_run
from tools.common.serve_secrets import load_secrets
from tools.serve.params import load_serve_params
from tools.smoke import api, parity
from tools.smoke.api import Verdict

if TYPE_CHECKING:
    import torch
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
    yield parity.check_prompts(replies, encoded)
    dtype = served_dtype(Path(one.folder))
    agreement = parity.check_transformers(one, client, rows[:sample], encoded[:sample], replies[:sample], dtype)
    yield from agreement.verdicts
    known, problem = eval_scores(one)
    if problem:
        yield Verdict("eval", False, problem, {})
    else:
        yield from parity.check_shares(
            replies, encoded, chat_tokenizer, known, agreement.undecided, params.answer.pattern
        )


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


def eval_scores(one: Endpoint) -> tuple[dict[str, float], str]:
    """Return what the eval stage measured for a model, and why that is not known of the model that is served.

    An adapter has the scores of merged, which keeps what it learned: gates say how much.
    """
    kind = "merged" if one.adapter else one.kind
    if one.rev is not None:
        return load_run(repository.recorded(one.rev))["metrics"][f"eval/{kind}"], ""
    path = Path(f"metrics/eval/{kind}.json")
    lock, stage = read_lock(None), f"eval@{kind}"
    made = lock.entry(stage, "outs", path.as_posix())
    judged = (
        lock.entry("merge", "deps", "models/adapter") if one.adapter else lock.entry(stage, "deps", f"models/{kind}")
    )
    if not made or not judged or not path.exists():
        return {}, f"{path}: not measured yet; run `dvc repro {stage}`"
    served = dvc_cache.folder_md5(one.adapter or Path(one.folder))
    if served != judged["md5"]:
        return {}, f"{path}: of another model, {judged['md5'][:8]}; {served[:8]} is served; run `make repro`"
    if fingerprints.facts(path)["md5"] != made["md5"]:
        return {}, f"{path}: not what {stage} wrote; run `dvc repro {stage}`"
    return files.read_json(path), ""


def served_dtype(folder: Path) -> "torch.dtype":
    """Return the dtype in which vLLM computes: serve.vllm.dtype, or the model's own, with bfloat16 for float32."""
    import torch

    names = {"float": "float32", "half": "float16"}
    name = load_serve_params(Path("params.yaml"))[0].vllm.get("dtype", "auto")
    if name == "auto":
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        own = config.get("dtype") or config.get("torch_dtype") or "bfloat16"
        name = "bfloat16" if own == "float32" else own
    found: torch.dtype = getattr(torch, names.get(name, name))
    return found


if __name__ == "__main__":
    main()
