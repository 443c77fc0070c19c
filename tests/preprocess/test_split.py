"""Split: content and seed decide where a row goes, and rows added later do not move it."""

from preparing import Contents, Prepare, alpaca, lines, outputs, questions, read, rows


def test_adding_rows_never_moves_a_row(prepare: Prepare) -> None:
    folder = prepare({"b.jsonl": lines(rows(100))})
    before = {name: read(folder, name) for name in ("train", "val")}
    folder = prepare(
        {
            "a.jsonl": lines(rows(50, start=100)),
            "b.jsonl": lines(rows(100)),
            "c.jsonl": lines([*rows(9, 200), *rows(9)]),
        }
    )
    for name in ("train", "val"):
        after = read(folder, name)
        assert [value for value in after if value in before[name]] == before[name]
        assert len(after) > len(before[name])


def test_the_share_of_val_rows_is_about_the_fraction_and_grows_with_it(prepare: Prepare) -> None:
    contents: Contents = {"rows.jsonl": lines(rows(1000))}
    small = questions(read(prepare(contents, {"preprocess.val_fraction": 0.1}), "val"))
    large = questions(read(prepare(contents, {"preprocess.val_fraction": 0.3}), "val"))
    assert 70 <= len(small) <= 130
    assert 250 <= len(large) <= 350
    assert set(small) < set(large)


def test_another_seed_gives_another_split(prepare: Prepare) -> None:
    contents: Contents = {"rows.jsonl": lines(rows(100))}
    seven, again, eight = (read(prepare(contents, {"preprocess.seed": seed}), "val") for seed in (7, 7, 8))
    assert seven == again != eight


def test_calibration_rows_are_drawn_from_train_by_the_seed(prepare: Prepare) -> None:
    contents: Contents = {"rows.jsonl": lines(rows(100))}
    folder = prepare(contents, {"preprocess.calibration_rows": 10})
    train, drawn = questions(read(folder, "train")), questions(read(folder, "calibration"))
    assert len(set(drawn)) == 10
    assert set(drawn) < set(train)
    assert drawn != train[:10]
    more = questions(read(prepare(contents, {"preprocess.calibration_rows": 20}), "calibration"))
    assert set(drawn) < set(more)
    assert len(more) == 20
    every = read(prepare(contents, {"preprocess.calibration_rows": 1000}), "calibration")
    assert sorted(questions(every)) == sorted(train)


def test_one_changed_row_changes_one_row(prepare: Prepare) -> None:
    values = rows(200)
    before = outputs(prepare({"a.jsonl": lines(values)}))
    values[50] = alpaca("Is this another question?")
    after = outputs(prepare({"a.jsonl": lines(values)}))
    for name in ("train.jsonl", "val.jsonl"):
        old, new = before[name].split(b"\n"), after[name].split(b"\n")
        assert len([line for line in old if line not in new]) <= 1
        assert len([line for line in new if line not in old]) <= 1
