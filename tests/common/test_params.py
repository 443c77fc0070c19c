"""Params: params.yaml is read as DVC reads it, and every problem in it is one line with the key."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import click
import pytest
from pydantic import PositiveInt

from stages.awq.params import AwqParams
from stages.base.params import BaseParams
from stages.common.params import Section, load_params
from stages.compare.params import CompareParams
from stages.eval.params import EvalParams
from stages.merge.params import MergeParams
from stages.preprocess import __main__ as preprocess
from stages.report.params import GatesParams
from stages.train import __main__ as train
from tools.preflight import SECTIONS


class Inner(Section):
    width: PositiveInt


class Outer(Section):
    rate: float
    mode: Literal["drop", "error"]
    scaling: bool | Literal["both"]
    names: list[str]
    inner: Inner


GOOD = """\
outer:
  rate: 2e-4
  mode: drop
  scaling: both
  names: [one]
  inner: {width: 8}
"""


def load(folder: Path, text: str) -> Outer:
    path = folder / "params.yaml"
    path.write_text(text, encoding="utf-8")
    return load_params(path, "outer", Outer)


def problem(folder: Path, text: str) -> str:
    with pytest.raises(click.ClickException) as raised:
        load(folder, text)
    assert raised.value.exit_code == 1
    return raised.value.message.replace(f"{folder}/", "")


def test_a_number_in_scientific_notation_is_a_number(tmp_path: Path) -> None:
    assert load(tmp_path, GOOD).rate == 0.0002
    assert load(tmp_path, GOOD.replace("2e-4", "3")).rate == 3


def test_params_never_change(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="frozen"):
        load(tmp_path, GOOD).rate = 1.0


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("rate:", "raet:", "outer.rate: missing key\nparams.yaml: outer.raet: unknown key; did you mean rate?"),
        ("mode: drop", "mode: drop\n  q: 1", "outer.q: unknown key"),
        ("rate: 2e-4", "rate: fast", "outer.rate: input should be a valid number (got 'fast')"),
        ("rate: 2e-4", 'rate: "2e-4"', "outer.rate: input should be a valid number (got '2e-4')"),
        ("rate: 2e-4", "rate: true", "outer.rate: input should be a valid number (got True)"),
        ("rate: 2e-4", "rate:", "outer.rate: input should be a valid number (got None)"),
        ("mode: drop", "mode: dorp", "outer.mode: input should be 'drop' or 'error' (got 'dorp')"),
        (
            "scaling: both",
            "scaling: never",
            "outer.scaling: input should be a valid boolean or input should be 'both' (got 'never')",
        ),
        ("[one]", "[one, 2]", "outer.names.1: input should be a valid string (got 2)"),
        ("[one]", "one", "outer.names: input should be a valid list (got 'one')"),
        ("{width: 8}", "{widht: 8, width: 8}", "outer.inner.widht: unknown key; did you mean width?"),
        ("{width: 8}", "{width: 0}", "outer.inner.width: input should be greater than 0 (got 0)"),
        ("{width: 8}", "{}", "outer.inner.width: missing key"),
        ("{width: 8}", "8", "outer.inner: input should be a valid dictionary (got 8)"),
    ],
)
def test_a_problem_is_one_line_with_the_key(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert problem(tmp_path, GOOD.replace(old, new)) == f"params.yaml: {message}"


def test_several_problems_are_several_lines(tmp_path: Path) -> None:
    text = GOOD.replace("2e-4", "fast").replace("drop", "dorp").replace("width", "height")
    assert problem(tmp_path, text).splitlines() == [
        "params.yaml: outer.rate: input should be a valid number (got 'fast')",
        "params.yaml: outer.mode: input should be 'drop' or 'error' (got 'dorp')",
        "params.yaml: outer.inner.width: missing key",
        "params.yaml: outer.inner.height: unknown key",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("other: {}\n", "params.yaml: outer: missing section"),
        ("outer:\n", "params.yaml: outer: missing section"),
        ("outer: 3\n", "params.yaml: outer: missing section"),
        ("", "params.yaml: outer: missing section"),
        ("- outer\n", "params.yaml: outer: missing section"),
        ("outer:\n  rate: [1\nmode: 2\n", "params.yaml:3: not YAML: expected ',' or ']', but got ':'"),
        ("outer:\n\trate: 1\n", "params.yaml:2: not YAML: found character '\\t' that cannot start any token"),
        (
            "outer: {}\nouter: {}\n",
            'params.yaml:2: not YAML: found duplicate key "outer" with value "{}" (original value: "{}")',
        ),
    ],
)
def test_a_file_without_the_section_is_an_error(tmp_path: Path, text: str, message: str) -> None:
    assert problem(tmp_path, text) == message


def test_a_missing_file_is_an_error(fail: Callable[..., str]) -> None:
    assert fail(preprocess.main) == "params.yaml: no such file; run from the repository root"


def test_the_params_of_this_repository_are_valid(params: Callable[..., Path]) -> None:
    path = params()
    for name, section in SECTIONS.items():
        assert load_params(path, name, section)


@pytest.mark.parametrize(
    ("section", "changes", "message"),
    [
        (
            BaseParams,
            {"base.source": "web"},
            "base.source: input should be 'tiny', 'hub', 'modelscope', 'folder' or 'gguf' (got 'web')",
        ),
        (BaseParams, {"base.tiny.seed": "x"}, "base.tiny.seed: input should be a valid integer"),
        (BaseParams, {"base.tiny.sead": 1}, "base.tiny.sead: unknown key; did you mean seed?"),
        (MergeParams, {"merge.rows": 0}, "merge.rows: input should be greater than 0 (got 0)"),
        (AwqParams, {"awq.samples": 0}, "awq.samples: input should be greater than 0 (got 0)"),
        (EvalParams, {"eval.rows": 1.5}, "eval.rows: input should be a valid integer"),
        (EvalParams, {"eval.backend": "tgi"}, "eval.backend: input should be 'hf' or 'vllm' (got 'tgi')"),
        (EvalParams, {"eval.tasks": "plain"}, "eval.tasks: input should be a valid list (got 'plain')"),
        (CompareParams, {"compare.confidence": 95}, "compare.confidence: input should be less than 1 (got 95)"),
        (GatesParams, {"gates.merge_kl_mean": ...}, "gates.merge_kl_mean: missing key"),
        (GatesParams, {"gates.merge_kl_mean": {"max": 1}}, "gates.merge_kl_mean.reason: missing key"),
        (
            GatesParams,
            {"gates.merge_kl_men": {"max": 1}},
            "gates.merge_kl_men: unknown key; did you mean merge_kl_mean?",
        ),
        (
            GatesParams,
            {"gates.merge_kl_mean": {"max": "low", "reason": "why"}},
            "gates.merge_kl_mean.max: input should be a valid number or input should be a valid integer (got 'low')",
        ),
        (
            GatesParams,
            {"gates.merge_kl_mean": {"reason": "why"}},
            "gates.merge_kl_mean: needs either min, max or not_worse_than (got {'reason': 'why'})",
        ),
        (
            GatesParams,
            {"gates.merge_kl_mean": {"max": 1, "min": 0, "reason": "why"}},
            "gates.merge_kl_mean: needs either min, max or not_worse_than "
            "(got {'max': 1, 'min': 0, 'reason': 'why'})",
        ),
    ],
)
def test_each_section_checks_its_own_keys(
    params: Callable[..., Path], section: type[Section], changes: dict[str, Any], message: str
) -> None:
    path = params(changes)
    name = next(iter(changes)).partition(".")[0]
    with pytest.raises(click.ClickException) as raised:
        load_params(path, name, section)
    assert raised.value.message.startswith(f"{path}: {message}")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"train.sft.learning_rat": 0.1},
            "params.yaml: train.sft.learning_rat: unknown key; did you mean learning_rate?",
        ),
        (
            {"train.sft.learning_rate": "fast", "train.sft.weight_decai": 0},
            "params.yaml: train.sft.learning_rate: input should be a valid number (got 'fast')\n"
            "params.yaml: train.sft.weight_decai: unknown key; did you mean weight_decay?",
        ),
        (
            {"train.sft.num_train_epochs": "3"},
            "params.yaml: train.sft.num_train_epochs: input should be a valid number (got '3')",
        ),
        ({"train.sft.bf16": True}, "params.yaml: train.sft.bf16: set by the stage itself; delete the line"),
        (
            {"train.sft.eval_strategy": "sometimes"},
            "params.yaml: train.sft: sometimes is not a valid IntervalStrategy, please select one of "
            "['no', 'steps', 'epoch']",
        ),
        ({"train.lora.rang": 8}, "params.yaml: train.lora.rang: unknown key"),
        ({"train.lora.r": "16"}, "params.yaml: train.lora.r: input should be a valid integer (got '16')"),
        ({"train.lora": 3}, "params.yaml: train.lora: input should be a valid dictionary (got 3)"),
        ({"train.batch_size": True}, "params.yaml: train.batch_size: input should be a valid integer (got True)"),
    ],
)
def test_a_wrong_key_of_a_library_config_is_an_error_that_names_it(
    params: Callable[..., Path], fail: Callable[..., str], base: Path, changes: dict[str, Any], message: str
) -> None:
    folder = params(changes).parent
    assert fail(train.main, "--base", base) == message
    assert list(folder.iterdir()) == [folder / "params.yaml"]


LAUGHS = "a0: &a0 [x, x, x, x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 10))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "outer: !!python/object/apply:os.mkdir [made]\n",
            "params.yaml:1: not YAML: could not determine a constructor for the tag "
            "'tag:yaml.org,2002:python/object/apply:os.mkdir'",
        ),
        (
            LAUGHS + GOOD.replace("[one]", "*a9"),
            "params.yaml: not YAML: its aliases stand for too many values",
        ),
        (
            "a: &a [*a]\n" + GOOD,
            "params.yaml: not YAML: its aliases stand for too many values",
        ),
        ("outer: " + "[" * 2000, "params.yaml: not YAML: nested too deeply"),
    ],
    ids=["tag", "aliases", "alias of itself", "depth"],
)
def test_a_hostile_file_is_one_line_and_runs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert problem(tmp_path, text) == message
    assert not (tmp_path / "made").exists()


def test_aliases_are_fine(tmp_path: Path) -> None:
    assert load(tmp_path, "one: &one [one]\n" + GOOD.replace("[one]", "*one")).names == ["one"]


def test_a_file_in_another_encoding_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_bytes("größe: 1\n".encode("latin-1"))
    with pytest.raises(click.ClickException, match=r"params\.yaml: not UTF-8; save it as UTF-8"):
        load_params(tmp_path / "params.yaml", "outer", Outer)
