"""Calibration: which rows and tokens llm-compressor gets, and which of them count."""

from collections.abc import Callable
from pathlib import Path

import pytest
from quantised import awq_params, scores, tensors, write_rows

from stages.awq.calibration import read_calibration
from stages.awq.verify import LIMIT
from stages.common import files, tokens


def test_rows_are_cut_to_the_limit_in_order(tmp_path: Path) -> None:
    rows = [tokens.TokenRow(list(range(length)), [0] + [1] * (length - 1)) for length in (12, 3, 10, 1)]
    config = awq_params(tmp_path, {"awq.max_seq_length": 10, "awq.samples": 4, "awq.use_loss_mask": True})
    cut, samples = read_calibration(write_rows(tmp_path / "rows.arrow", rows), config)
    assert [row.ids for row in cut] == [list(range(length)) for length in (10, 3, 10, 1)]
    assert list(samples["input_ids"]) == [row.ids for row in cut]
    assert list(samples["attention_mask"]) == [[1] * len(row.ids) for row in cut]
    assert list(samples["loss_mask"]) == [row.mask for row in cut] == [[0] + [1] * (len(row.ids) - 1) for row in cut]


def test_the_loss_mask_is_given_only_where_the_params_ask_for_it(prepared: Path, tmp_path: Path) -> None:
    _, samples = read_calibration(prepared / "calibration.arrow", awq_params(tmp_path, {}))
    assert samples.column_names == ["input_ids", "attention_mask"]


def test_where_there_are_fewer_rows_than_samples_all_are_used_and_a_line_tells(
    prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arrow = write_rows(tmp_path / "two.arrow", tokens.read(prepared / "calibration.arrow", 2))
    rows, samples = read_calibration(arrow, awq_params(tmp_path, {"awq.samples": 17}))
    assert len(rows) == len(samples) == 2
    assert capsys.readouterr().out == f"{arrow}: 2 rows, and all are used; awq.samples asks for 17\n"


@pytest.mark.slow
def test_as_many_rows_are_used_as_samples_says_and_no_others(
    quantise: Callable[..., Path], prepared: Path, tmp_path: Path
) -> None:
    folder = quantise({"awq.samples": 3})
    hashes, found = files.hashes(folder / "models" / "awq"), scores(folder)
    three = write_rows(tmp_path / "three.arrow", tokens.read(prepared / "calibration.arrow", 3))
    quantise({"awq.samples": 3}, calibration=three)
    assert files.hashes(folder / "models" / "awq") == hashes
    assert scores(folder) == found
    assert found["calibration_rows"] == 3


@pytest.mark.slow
def test_with_the_loss_mask_only_assistant_tokens_count(
    quantise: Callable[..., Path], awq: Path, prepared: Path, tmp_path: Path
) -> None:
    masked = tensors(quantise({"awq.use_loss_mask": True}) / "models" / "awq")
    norm = "model.layers.0.input_layernorm.weight"  # AWQ multiplies its scales into this one
    assert not masked[norm].equal(tensors(awq)[norm])
    rows = [tokens.TokenRow(row.ids, [1] * len(row.ids)) for row in tokens.read(prepared / "calibration.arrow")]
    everything = quantise({"awq.use_loss_mask": True}, calibration=write_rows(tmp_path / "everything.arrow", rows))
    assert files.hashes(everything / "models" / "awq") == files.hashes(awq)


@pytest.mark.slow
def test_rows_that_are_cut_before_their_answers_still_calibrate(quantise: Callable[..., Path]) -> None:
    assert 0 <= scores(quantise({"awq.max_seq_length": 4, "awq.samples": 4}))["reload_kl_mean"] < LIMIT
