"""Time the preprocess stage against the least that its work can cost: read, tokenise, write.

The rows are generated: alpaca's lengths, words by Zipf's law. The tokenizer has 32,000 entries and is trained on
them, or it is that of a model with ChatML tokens, such as Qwen3's with 151,669. The lower bound reads the same
file, renders each row with one f-string, calls `encode_batch` with the same threads and writes the ids; it checks,
masks and counts nothing. Both run as processes of their own, one after the other. Run it with `make bench`, or with
`docker/run --no-log python -m tools.bench.preprocess`.
"""

import bisect
import itertools
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import click

ROOT = Path(__file__).resolve().parents[2]
VOCABULARY = 32_000
LONGEST = 400  # words
BOUND = """
import itertools, sys
import orjson, pyarrow as pa
from tokenizers import Tokenizer
tokenizer = Tokenizer.from_file(sys.argv[1])
schema = pa.schema({"input_ids": pa.list_(pa.int32())})
with open(sys.argv[2], "rb") as lines, pa.ipc.new_stream(sys.argv[3], schema) as out:
    while batch := list(itertools.islice(lines, 1000)):
        rows = map(orjson.loads, batch)
        texts = [
            f"<|im_start|>user\\n{row['instruction']}\\n\\n{row['input']}<|im_end|>\\n"
            f"<|im_start|>assistant\\n{row['output']}<|im_end|>\\n"
            for row in rows
        ]
        ids = [encoding.ids for encoding in tokenizer.encode_batch(texts, add_special_tokens=False)]
        out.write_batch(pa.record_batch([pa.array(ids, pa.list_(pa.int32()))], schema=schema))
"""


class Cost(NamedTuple):
    """What a process took."""

    seconds: float
    cpu_seconds: float
    peak_bytes: int


@click.command(help=__doc__)
@click.option("--rows", default=50_000, show_default=True)
@click.option("--large", default=500_000, show_default=True, help="Rows of the memory run; 0 leaves it out.")
@click.option(
    "--tokenizer", type=click.Path(path_type=Path), help="Folder with the tokenizer of a model; none: one is trained."
)
@click.option("--repeats", default=3, show_default=True, help="The median is shown.")
def main(rows: int, large: int, tokenizer: Path | None, repeats: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data, base, params = make_workspace(folder, rows, tokenizer)
        stage: list[str | Path] = [
            sys.executable,
            "-m",
            "stages.preprocess",
            "--params",
            params,
            "--base",
            base,
            "--raw",
            data.parent,
        ]
        outs = ["--out", "out", "--metrics", "metrics.json", "--lengths", "lengths.csv", "--outcomes", "outcomes.csv"]
        bound: list[str | Path] = [sys.executable, "-c", BOUND, base / "tokenizer.json", data, folder / "bound.arrow"]
        pairs = [(run(bound, folder), run([*stage, *outs], folder)) for _ in range(repeats)]
        bare, full = (sorted(costs)[repeats // 2] for costs in zip(*pairs, strict=True))
        ratio = sorted(stage.seconds / bound.seconds for bound, stage in pairs)[repeats // 2]
        counts = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        size = data.stat().st_size
        write_rows(data, 100)
        start = run([*stage, *outs], folder)
        click.echo(f"{rows} rows, {size / 1e6:.0f} MB, {os.cpu_count()} cores, tokens {counts['tokens']}")
        click.echo(f"{'':12}  {'seconds':>8}  {'CPU s':>8}  {'rows/s':>8}  {'MB/s':>6}  {'peak MB':>8}")
        for label, cost in (("lower bound", bare), ("stage", full)):
            click.echo(
                f"{label:12}  {cost.seconds:8.2f}  {cost.cpu_seconds:8.2f}  {rows / cost.seconds:8.0f}"
                f"  {size / 1e6 / cost.seconds:6.1f}  {cost.peak_bytes / 1e6:8.0f}"
            )
        click.echo(f"ratio {ratio:.2f} (at most 1.4); 100 rows take {start.cpu_seconds:.2f} CPU seconds (at most 2)")
        if large:
            write_rows(data, large)
            more = run([*stage, *outs], folder)
            click.echo(
                f"{large} rows: {more.seconds:.0f} s, peak {more.peak_bytes / 1e6:.0f} MB, "
                f"{more.peak_bytes / full.peak_bytes:.2f} times that of {rows} (at most 1.5)"
            )


def run(command: list[str | Path], folder: Path) -> Cost:
    """Run a process in `folder` and measure it; a failure ends the benchmark with its message."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    start = time.monotonic()
    process = subprocess.Popen(
        [str(part) for part in command], cwd=folder, env=environment, stdout=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise click.ClickException(f"{command[2]} ended with status {os.waitstatus_to_exitcode(status)}")
    return Cost(time.monotonic() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)


def make_workspace(folder: Path, rows: int, tokenizer: Path | None) -> tuple[Path, Path, Path]:
    """Write rows, the chat side of a model, and params."""
    from stages.base.tiny_tokenizer import CHAT_TEMPLATE

    data, base = folder / "raw" / "rows.jsonl", folder / "base"
    data.parent.mkdir()
    base.mkdir()
    write_rows(data, rows)
    if tokenizer:
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copyfile(tokenizer / name, base / name)
    else:
        train_tokenizer(data, base)
    (base / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")
    return data, base, ROOT / "params.yaml"


def train_tokenizer(data: Path, base: Path) -> None:
    """Write a tokenizer that was trained on the first rows."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=special,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    with data.open(encoding="utf-8") as lines:
        tokenizer.train_from_iterator(itertools.islice(lines, 20_000), trainer)
    tokenizer.save(str(base / "tokenizer.json"))
    config = {"pad_token": special[0], "eos_token": special[2]}
    (base / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")


def write_rows(path: Path, count: int) -> None:
    """Write alpaca rows; the logarithm of their lengths has mean and spread of a thousand rows of alpaca-gpt4."""
    rng = random.Random(7)
    syllables = [
        start + end for start in "bcdfglmnprstv" for end in ("a", "e", "i", "o", "u", "an", "er", "in", "or")
    ]
    words = ["".join(rng.choices(syllables, k=rng.choice([1, 1, 2, 2, 3, 4]))) for _ in range(40_000)]
    weights = list(itertools.accumulate(1 / rank for rank in range(1, len(words) + 1)))

    def text(mean: float, spread: float) -> str:
        size = min(max(1, round(rng.lognormvariate(mean, spread))), LONGEST)
        said = [words[bisect.bisect(weights, rng.random() * weights[-1])] for _ in range(size)]
        return " ".join(said).capitalize() + "."

    with path.open("w", encoding="utf-8") as file:
        for _ in range(count):
            row = {
                "instruction": text(2.25, 0.35),
                "input": text(1.86, 0.98) if rng.random() < 0.41 else "",
                "output": text(4.04, 1.4),
            }
            file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
