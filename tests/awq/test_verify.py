"""Verify: what is wrong with a saved model is found in its files or after loading it, whatever the cause."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from click import ClickException
from quantised import awq_params, change_config, change_tensors, tensors

from stages.awq import __main__ as stage
from stages.awq.calibration import read_calibration
from stages.awq.model import load_model, log_probabilities, save_model
from stages.awq.schemes import Expected, plan_scheme
from stages.awq.verify import check_files, verify_model
from stages.common.tokens import TokenRow


class Known(NamedTuple):
    """What the stage knows of the session's quantised model when it verifies it."""

    expected: Expected
    rows: list[TokenRow]
    before: Any


@pytest.fixture(scope="module")
def known(awq: Path, merged: Path, prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Known:
    config = awq_params(tmp_path_factory.mktemp("params"), {})
    rows, _ = read_calibration(prepared / "calibration.arrow", config)
    _, expected = plan_scheme(load_model(merged, "dvc repro merge"), config)
    return Known(expected, rows, log_probabilities(load_model(awq, "dvc repro awq"), rows))


@pytest.fixture
def verify(awq: Path, known: Known, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Verify a changed copy of the session's quantised model."""

    def verify(change: Callable[[Path], object]) -> dict[str, Any]:
        folder = shutil.copytree(awq, tmp_path / "awq")
        change(folder)
        return verify_model(folder, known.expected, known.rows, known.before, "cpu")

    return verify


def test_an_unchanged_model_is_the_one_that_was_saved(verify: Callable[..., dict[str, Any]]) -> None:
    scores = verify(lambda folder: None)
    assert scores == {"expected_modules": 14, "quantized_modules": 14, "reload_kl_mean": 0}


def forget_quantisation(folder: Path) -> None:
    change_config(folder, lambda config: config.pop("quantization_config"))


def lose_scale(folder: Path) -> None:
    change_tensors(folder, lambda found: found.pop("model.layers.1.mlp.up_proj.weight_scale"))


def store_twice(folder: Path) -> None:
    change_tensors(folder, lambda found: found.update(twice=found["model.embed_tokens.weight"].clone()))


def flip_weights(folder: Path) -> None:
    change_tensors(folder, lambda found: found["model.layers.0.mlp.down_proj.weight_packed"].bitwise_not_())


def make_infinite(folder: Path) -> None:
    change_tensors(folder, lambda found: found["model.norm.weight"].fill_(float("inf")))


LAYER = "model.layers.0.mlp.down_proj"
MESSAGES = {
    forget_quantisation: f"FOLDER: 0 of 14 linear layers are quantised; {LAYER} is not quantised; check awq.ignore",
    lose_scale: "FOLDER: 13 of 14 linear layers are quantised; model.layers.1.mlp.up_proj is not quantised; "
    "check awq.ignore",
    store_twice: "FOLDER: TWICE bytes of tensors, but their shapes need ONCE (tolerance 1%); "
    "a tensor is stored twice or in 16 bits; check awq.ignore",
    make_infinite: "awq.scheme: the quantised model computes infinite numbers or NaN, so it is not kept; "
    "try another scheme",
}


@pytest.mark.parametrize(("damage", "message"), MESSAGES.items())
def test_a_damaged_model_is_found(
    verify: Callable[..., Any], awq: Path, tmp_path: Path, damage: Callable[[Path], object], message: str
) -> None:
    sizes = {name: tensor.nbytes for name, tensor in tensors(awq).items()}
    once, twice = sum(sizes.values()), sum(sizes.values()) + sizes["model.embed_tokens.weight"]
    with pytest.raises(ClickException) as raised:
        verify(damage)
    expected = message.replace("FOLDER", str(tmp_path / "awq"))
    assert raised.value.message == expected.replace("ONCE", str(once)).replace("TWICE", str(twice))


def test_other_weights_than_the_saved_ones_are_found(verify: Callable[..., Any], tmp_path: Path) -> None:
    with pytest.raises(ClickException) as raised:
        verify(flip_weights)
    start = f"{tmp_path / 'awq'}: loaded again, the model is not the one that was saved (KL "
    end = ", limit 0.005), so it is not kept; install the locked libraries with `make install`"
    assert raised.value.message.startswith(start)
    assert raised.value.message.endswith(end)


def test_a_layer_that_should_not_be_quantised_is_found(awq: Path, known: Known) -> None:
    fewer = known.expected.layers - {LAYER}
    with pytest.raises(ClickException) as raised:
        check_files(awq, Expected(fewer, known.expected.size_bytes))
    assert raised.value.message == (
        f"{awq}: 13 of 13 linear layers are quantised; {LAYER} is quantised but should not be; check awq.ignore"
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ignore", "layer"), [(["lm_head", "re:.*q_proj$"], "model.layers.0.self_attn.q_proj"), ([], "lm_head")]
)
def test_the_stage_keeps_no_model_whose_layers_differ_from_the_params(
    refuse: Callable[..., str], monkeypatch: pytest.MonkeyPatch, ignore: list[str], layer: str
) -> None:
    def plan_other(network: Any, config: Any) -> Any:
        recipe, _ = plan_scheme(network, config.model_copy(update={"ignore": ignore}))
        return recipe, plan_scheme(network, config)[1]

    monkeypatch.setattr(stage, "plan_scheme", plan_other)
    message = refuse({"awq.samples": 2})
    assert message.startswith("models/awq: ")
    assert layer in message
    assert message.endswith("awq.ignore")


@pytest.mark.slow
def test_the_stage_keeps_no_damaged_model(refuse: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    def save_damaged(network: Any, stored: Any, folder: Path, *arguments: Any) -> Any:
        before = save_model(network, stored, folder, *arguments)
        flip_weights(folder)
        return before

    monkeypatch.setattr(stage, "save_model", save_damaged)
    assert refuse({"awq.samples": 2}).startswith("models/awq: loaded again, ")
