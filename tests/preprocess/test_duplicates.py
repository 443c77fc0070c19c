"""Duplicates: groups agree with exact Jaccard similarity of each pair, and the first row of a group is kept."""

import json
import random
import unicodedata
from collections.abc import Callable
from pathlib import Path

import accounting
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from preparing import Prepare, Rows, alpaca, counts, kept, lines, manifest, questions, read, rows, talk

from stages.preprocess.duplicates import CHUNK, SHINGLE, first_equal, first_similar, normalize, signatures

SEED = 7
Find = Callable[..., list[int]]


def shingles(text: bytes) -> set[bytes]:
    padded = text.ljust(SHINGLE)
    return {padded[start : start + SHINGLE] for start in range(len(padded) - SHINGLE + 1)}


def jaccard(one: bytes, other: bytes) -> float:
    return len(shingles(one) & shingles(other)) / len(shingles(one) | shingles(other))


def groups_by_brute_force(texts: list[bytes], similarity: float) -> list[int]:
    """Return for each row the first row of its group, with every pair compared exactly."""
    first = list(range(len(texts)))
    for low in range(len(texts)):
        for high in range(low + 1, len(texts)):
            if first[low] != first[high] and jaccard(texts[low], texts[high]) >= similarity:
                joined = sorted((first[low], first[high]))
                first = [joined[0] if group == joined[1] else group for group in first]
    return first


def words(rng: random.Random, count: int) -> list[str]:
    return ["".join(rng.choices("abcdefghijklmnopqrst", k=rng.randint(2, 9))) for _ in range(count)]


@pytest.fixture
def find(tmp_path: Path) -> Find:
    """Return for each text the first of its group, as the stage finds it."""

    def find(
        texts: list[bytes], salts: list[int] | None = None, similarity: float = 0.9, batch: int = 7
    ) -> list[int]:
        salts = salts or [0] * len(texts)
        with (tmp_path / "signatures").open("wb") as file:
            for start in range(0, len(texts), batch):
                part = slice(start, start + batch)
                file.write(signatures(texts[part], salts[part], SEED).tobytes())
        return first_similar(tmp_path / "signatures", len(texts), similarity).tolist()

    return find


@pytest.mark.slow
def test_groups_are_those_of_exact_similarity(find: Find) -> None:
    # Texts differ in a word at the end or entirely: no pair is near the limit, where MinHash may be wrong.
    rng = random.Random(1)
    texts = [" ".join(words(rng, 60)).encode() for _ in range(60)]
    for text in rng.sample(texts, 25):
        for _ in range(rng.randint(1, 3)):
            texts.append(text[: -rng.randint(1, 6)] + str(rng.randint(0, 99)).encode())
    texts += rng.sample(texts, 10)
    rng.shuffle(texts)
    similar = [jaccard(one, other) for n, one in enumerate(texts) for other in texts[:n]]
    assert not any(0.5 < value < 0.96 for value in similar)
    assert sum(value >= 0.96 for value in similar) > 60
    assert find(texts) == groups_by_brute_force(texts, 0.9)


def test_signatures_estimate_exact_similarity() -> None:
    rng = random.Random(2)
    pairs = []
    for share in range(0, 100, 2):
        common = words(rng, 80)
        other = [
            word if rng.randrange(100) < share else new for word, new in zip(common, words(rng, 80), strict=True)
        ]
        pairs.append((" ".join(common).encode(), " ".join(other).encode()))
    rows = signatures([text for pair in pairs for text in pair], [0] * 100, SEED)
    exact = np.array([jaccard(*pair) for pair in pairs])
    estimate = (rows[::2] == rows[1::2]).mean(axis=1)
    assert exact.min() < 0.05 < 0.8 < exact.max()
    # The standard deviation of the estimate is sqrt(J (1 - J) / 128), at most 0.045.
    assert np.abs(estimate - exact).max() < 0.18
    assert abs((estimate - exact).mean()) < 0.02


@settings(max_examples=50, deadline=None, derandomize=True)
@given(texts=st.lists(st.binary(max_size=30), min_size=1, max_size=12), cut=st.integers(1, 6))
def test_a_signature_depends_on_its_own_row_alone(texts: list[bytes], cut: int) -> None:
    together = signatures(texts, [3] * len(texts), SEED)
    apart = [
        signatures(texts[at : at + cut], [3] * len(texts[at : at + cut]), SEED) for at in range(0, len(texts), cut)
    ]
    assert (together == np.concatenate(apart)).all()
    same = [[one.ljust(SHINGLE) == other.ljust(SHINGLE) for other in texts] for one in texts]
    for one, row in enumerate(same):
        for other, equal in enumerate(row):
            assert not equal or (together[one] == together[other]).all()


def test_another_seed_draws_other_hashes() -> None:
    text = b"the same text for both seeds"
    assert (signatures([text], [0], 7) != signatures([text], [0], 8)).mean() > 0.9


def test_rows_with_different_contexts_are_never_similar(find: Find) -> None:
    text = " ".join(words(random.Random(3), 50)).encode()
    assert find([text] * 4, salts=[1, 2, 1, 2**64 - 1]) == [0, 1, 0, 3]


def test_short_rows_are_similar_only_when_equal(find: Find) -> None:
    texts = [b"", b"a", b"b", b"a", b"a b", b"12", b"13", b"12345678", b"12345679", b"", b"12345678"]
    assert find(texts) == [0, 1, 2, 1, 4, 5, 6, 7, 8, 0, 7]


def test_rows_similar_to_similar_rows_are_in_one_group(find: Find) -> None:
    base = " ".join(words(random.Random(4), 100))
    chain = [base[step * 8 :].encode() for step in range(12)]  # each like the next, the last unlike the first
    assert jaccard(chain[0], chain[1]) > 0.97
    assert jaccard(chain[0], chain[-1]) < 0.9
    assert find([b"another text", *chain]) == [0] + [1] * 12
    assert find([*chain[::-1], b"another text"]) == [0] * 12 + [12]


def test_groups_are_found_across_chunks(find: Find) -> None:
    rng = random.Random(5)
    texts = [" ".join(words(rng, 12)).encode() for _ in range(2 * CHUNK + 100)]
    expected = list(range(len(texts)))
    for later, first in ((CHUNK, 0), (len(texts) - 1, 5), (CHUNK + 1, CHUNK - 1)):
        texts[later], expected[later] = texts[first], first
    assert find(texts, batch=1000) == expected


def test_one_text_many_times_is_one_group(find: Find) -> None:
    assert find([b"the same again and again"] * (CHUNK + 10), batch=1000) == [0] * (CHUNK + 10)


def test_no_rows_have_no_duplicates(tmp_path: Path) -> None:
    (tmp_path / "signatures").touch()
    assert first_similar(tmp_path / "signatures", 0, 0.9).tolist() == []
    assert first_equal(np.empty((0, 2), dtype=np.uint64)).tolist() == []


@settings(max_examples=100, deadline=None, derandomize=True)
@given(keys=st.lists(st.tuples(st.integers(0, 3), st.integers(2**64 - 3, 2**64 - 1)), max_size=30))
def test_equal_keys_lead_to_the_first_of_them(keys: list[tuple[int, int]]) -> None:
    found = first_equal(np.array(keys, dtype=np.uint64).reshape(-1, 2))
    assert found.tolist() == [keys.index(key) for key in keys]


@settings(max_examples=100, deadline=None, derandomize=True)
@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_white_space_and_composition_make_no_difference_but_case_does(text: str) -> None:
    expected = normalize(text)
    assert normalize(f" \n{text}\t") == expected
    assert normalize(unicodedata.normalize("NFD", text)) == expected
    assert normalize(text.replace(" ", " \u2003\r\n")) == expected
    assert normalize(f"{text} Polish") != normalize(f"{text} polish")


def test_the_first_of_two_duplicates_is_kept_in_any_file_and_format(prepare: Prepare) -> None:
    again = talk("Is 0 a number?", "yes")
    folder = prepare({"a.jsonl": lines(rows(20)), "b.json": json.dumps([again, again]), "c.jsonl": lines(rows(3))})
    assert counts(folder)["rows_dropped"] == {"duplicate": 5}
    assert sorted(questions(kept(folder))) == sorted(value["instruction"] for value in rows(20))


def test_rows_with_different_system_messages_or_tools_are_not_duplicates(prepare: Prepare) -> None:
    question = "What do you think of the weather today, and of what it will be like tomorrow?"
    system = [{"role": "system", "content": "Be brief."}]
    plain = talk(question, "It will do." * 9)
    with_system = {"messages": [*system, *plain["messages"]]}
    tools = plain | {"tools": [{"name": "weather"}]}
    other = plain | {"tools": [{"name": "forecast"}]}
    folder = prepare(
        {"a.jsonl": lines([plain, with_system, tools, other, *(talk(f"{n}?", "yes") for n in range(20))])}
    )
    assert counts(folder)["rows_dropped"] == {}
    folder = prepare(
        {
            "a.jsonl": lines(
                [plain, with_system, with_system, tools, tools, *(talk(f"{n}?", "yes") for n in range(20))]
            )
        }
    )
    assert counts(folder)["examples"] == {"duplicate": ["a.jsonl:3", "a.jsonl:5"]}


def alike(number: int, times: int) -> Rows:
    """Return rows that differ only in their last letter; another number gives entirely different rows."""
    body = " ".join(f"{(number + 1) * 7919 * place:x}" for place in range(1, 60))
    return [alpaca(f"Repeat this: {body}", body + "abcdefgh"[time]) for time in range(times)]


def test_the_first_of_near_duplicates_is_kept(prepare: Prepare, byte_base: Path) -> None:
    groups = [alike(number, 4) for number in range(15)]
    rest = [one for group in groups for one in group[1:]]
    contents = {"a.jsonl": lines([*(group[0] for group in groups), *rest])}
    folder = prepare(contents, {"preprocess.max_length": 4000, "preprocess.max_dropped_share": 1.0})
    assert counts(folder)["rows_dropped"] == {"near_duplicate": 45}
    assert [entry["duplicate_of"] for entry in manifest(folder)][15:] == [
        f"a.jsonl:{n}" for n in range(1, 16) for _ in range(3)
    ]
    assert sorted(questions(kept(folder))) == sorted(group[0]["instruction"] for group in groups)
    accounting.check(counts(folder), folder / "data" / "raw", folder / "data" / "prepared", byte_base)


def test_near_duplicates_that_are_kept_are_in_one_split(prepare: Prepare) -> None:
    groups = [alike(number, 4) for number in range(30)]
    mixed = [group[place] for place in range(4) for group in groups]
    changes = {
        "preprocess.near_duplicates": "keep", "preprocess.duplicates": "keep", "preprocess.max_length": 4000,
        "preprocess.val_fraction": 0.5,
    }  # fmt: skip
    folder = prepare({"a.jsonl": lines([*mixed, *mixed[:40]])}, changes)
    assert counts(folder)["rows_dropped"] == {}
    sides = [set(questions(read(folder, name))) for name in ("train", "val")]
    assert not sides[0] & sides[1]
    assert all(len(side) > 5 for side in sides)
