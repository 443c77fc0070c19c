"""Time training against a bare loop on the very same batches, and against TRL's own defaults on the same rows.

A Qwen2 of 50 million random weights learns LoRA (rank 16, every linear layer) on rows with alpaca's lengths, on the
device at hand. The bare loop is PyTorch and PEFT: forward, backward, clip, AdamW. Start-up and the first step, which
warms up, are left out. Then the imports of every stage are timed, each in a process of its own. Run it with
`make bench`, or with `python -m tools.bench.train`.
"""

import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stages.common import device, settings, tokens
from stages.train import TrainParams

if TYPE_CHECKING:
    from stages.common.trainer import Trainer

ROOT = Path(__file__).resolve().parents[2]
SIZES = {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 10, "num_attention_heads": 8}
VOCABULARY, LONGEST = 32_000, 1024
LIBRARIES = ("torch", "transformers", "trl", "peft")


@click.command(help=__doc__)
@click.option("--rows", default=64, show_default=True)
@click.option("--batch", default=8, show_default=True, help="Rows per step.")
@click.option("--repeats", default=1, show_default=True, help="The median ratio is shown.")
def main(rows: int, batch: int, repeats: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_workspace(folder, rows)
        total = sum(tokens.lengths(folder / "train.arrow"))
        click.echo(f"{rows} rows, {total} tokens, {batch} rows a step")
        runs = [(bare(folder, batch), stage(folder, batch), defaults(folder, batch)) for _ in range(repeats)]
    for label, column in zip(("bare loop", "stage", "trl sft defaults"), zip(*runs, strict=True), strict=True):
        click.echo(f"{label:16}  {sorted(column)[repeats // 2]:8.0f} tokens/s")
    against_bare, against_defaults = (
        sorted(ours / other[place] for *other, ours in ((*run[::2], run[1]) for run in runs))[repeats // 2]
        for place in (0, 1)
    )
    click.echo(
        f"stage / bare loop {against_bare:.2f} (at least 0.9), stage / defaults {against_defaults:.2f} (at least 2)"
    )
    imports()


def bare(folder: Path, batch: int) -> float:
    """Run the loop that does nothing else, on the batches that the stage makes, and give tokens per second."""
    import torch

    trainer = make_trainer(folder, batch)
    batches = list(trainer.get_train_dataloader())
    model = trainer.model.train()
    optimizer = torch.optim.AdamW(
        [weight for weight in model.parameters() if weight.requires_grad], lr=1e-4, fused=True
    )
    done, start = 0, 0.0
    for number, inputs in enumerate(batches):
        if number == 1:
            done, start = 0, time.monotonic()
        model(**inputs, use_cache=False).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        done += int(inputs["attention_mask"].sum())
    return done / (time.monotonic() - start)


def stage(folder: Path, batch: int) -> float:
    """Train as the stage does, and give tokens per second."""
    return timed(make_trainer(folder, batch))


def defaults(folder: Path, batch: int) -> float:
    """Train as TRL does when nobody sets anything, and give tokens per second."""
    import trl

    ours = make_trainer(folder, batch)
    arguments = trl.SFTConfig(
        output_dir=str(folder / "defaults"),
        per_device_train_batch_size=batch,
        num_train_epochs=1,
        report_to="none",
        save_strategy="no",
        dataset_kwargs={"skip_prepare_dataset": True},
        bf16=ours.args.bf16,
        use_cpu=ours.args.use_cpu,
    )
    return timed(
        trl.SFTTrainer(
            model=ours.model,
            args=arguments,
            train_dataset=tokens.dataset(folder / "train.arrow"),
            processing_class=ours.processing_class,
        )
    )


def timed(trainer: Any) -> float:
    """Run a trainer, and give its tokens per second after the first step."""
    from transformers import TrainerCallback

    class Watch(TrainerCallback):
        marks: list[float] = []  # noqa: RUF012  one trainer's

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.marks.append(time.monotonic())

    counted: list[int] = []
    step = trainer.training_step

    def counting(model: Any, inputs: dict[str, Any], *rest: Any, **named: Any) -> Any:
        counted.append(int(inputs["attention_mask"].sum()))
        return step(model, inputs, *rest, **named)

    trainer.training_step = counting
    watch = Watch()
    trainer.add_callback(watch)
    trainer.train()
    return sum(counted[1:]) / (watch.marks[-1] - watch.marks[0])


def make_trainer(folder: Path, batch: int) -> "Trainer":
    """Build the stage's trainer with the params of the repository, on the model in `folder`."""
    from stages.common import training

    params = ROOT / "params.yaml"
    config = settings.load(params, "train", TrainParams)
    machine = config.machine.model_copy(update={"device_batch_size": batch, "report_to": [], "save_steps": 1000})
    sft = config.sft | {"num_train_epochs": 1, "eval_strategy": "no"}
    config = config.model_copy(update={"batch_size": batch, "machine": machine, "sft": sft})
    place = device.choose()
    lora, arguments = training.configs(params, config, place)
    model = training.load_model(params, folder / "base", config, place, None)
    both = (folder / "train.arrow", folder / "train.arrow")
    return training.make_trainer(params, config, model, folder / "base", both, lora, arguments, folder)


def make_workspace(folder: Path, rows: int) -> None:
    """Write a model of random weights and rows of random tokens, with the lengths of tools.bench.preprocess."""
    import pyarrow as pa
    import torch
    from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(7)
    shape = {**SIZES, "num_key_value_heads": 8, "vocab_size": VOCABULARY, "max_position_embeddings": LONGEST}
    Qwen2ForCausalLM(Qwen2Config(**shape, tie_word_embeddings=True)).save_pretrained(folder / "base")
    AutoTokenizer.from_pretrained(ROOT / "models" / "base").save_pretrained(folder / "base")
    rng = random.Random(7)
    lengths = [min(LONGEST, 30 + round(rng.lognormvariate(4.04, 1.0) * 4 / 3)) for _ in range(rows)]
    ids = [[rng.randrange(3, 1000) for _ in range(length)] for length in lengths]
    masks = [[0] * 20 + [1] * (length - 20) for length in lengths]
    with pa.ipc.new_stream(str(folder / "train.arrow"), tokens.SCHEMA) as out:
        out.write_batch(pa.record_batch([ids, masks], schema=tokens.SCHEMA))


def imports() -> None:
    """Time what each stage imports, and the libraries that train cannot do without."""
    stages = {
        "base": ["stages.base"],
        "preprocess": ["stages.preprocess", "stages.common.ledger", "stages.common.intake"],
        "train": ["stages.train", "dvclive", "stages.common.learning", "stages.common.training"],
        "merge": ["stages.merge", "transformers", "peft"],
        "awq": ["stages.awq", "transformers", "llmcompressor"],
        "eval": ["stages.eval", "transformers"],
        "report": ["stages.report"],
        "torch + transformers + trl + peft": list(LIBRARIES),
    }
    nothing = cpu_seconds([])
    for name, modules in stages.items():
        click.echo(f"imports of {name:34} {cpu_seconds(modules) - nothing:5.1f} CPU seconds")


def cpu_seconds(modules: list[str]) -> float:
    """Import modules in a new process and give the CPU time that it took."""
    code = f"import importlib, resource\nfor name in {modules}: importlib.import_module(name)\n"
    code += "used = resource.getrusage(resource.RUSAGE_SELF); print(used.ru_utime + used.ru_stime)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


if __name__ == "__main__":
    main()
