"""Twins: what is found agrees with exact Jaccard similarity pair by pair; the first of a group stands for it."""

import random
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.common import twins

SEED = 7
Find = Callable[..., list[int]]


def pieces(text: bytes) -> set[bytes]:
    padded = text.ljust(twins.PIECE)
    return {padded[start : start + twins.PIECE] for start in range(len(padded) - twins.PIECE + 1)}


def jaccard(one: bytes, other: bytes) -> float:
    return len(pieces(one) & pieces(other)) / len(pieces(one) | pieces(other))


def groups_by_brute_force(texts: list[bytes], similarity: float) -> list[int]:
    """Give for each row the first row of its group, every pair compared exactly."""
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
    """Give for each text the first of its group, as the stage finds it."""

    def find(
        texts: list[bytes], salts: list[int] | None = None, similarity: float = 0.9, batch: int = 7
    ) -> list[int]:
        salts = salts or [0] * len(texts)
        with (tmp_path / "signatures").open("wb") as file:
            for start in range(0, len(texts), batch):
                part = slice(start, start + batch)
                file.write(twins.signatures(texts[part], salts[part], SEED).tobytes())
        return twins.first_similar(tmp_path / "signatures", len(texts), similarity).tolist()

    return find


def test_groups_are_those_of_exact_similarity(find: Find) -> None:
    # Texts either differ in a word at the end or are strangers: no pair lies near the limit, where MinHash may err.
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
    rows = twins.signatures([text for pair in pairs for text in pair], [0] * 100, SEED)
    exact = np.array([jaccard(*pair) for pair in pairs])
    estimate = (rows[::2] == rows[1::2]).mean(axis=1)
    assert exact.min() < 0.05 < 0.8 < exact.max()
    # The standard deviation of the estimate is sqrt(J (1 - J) / 128), at most 0.045.
    assert np.abs(estimate - exact).max() < 0.18
    assert abs((estimate - exact).mean()) < 0.02


@settings(max_examples=50, deadline=None, derandomize=True)
@given(texts=st.lists(st.binary(max_size=30), min_size=1, max_size=12), cut=st.integers(1, 6))
def test_a_signature_depends_on_its_own_row_alone(texts: list[bytes], cut: int) -> None:
    together = twins.signatures(texts, [3] * len(texts), SEED)
    apart = [
        twins.signatures(texts[at : at + cut], [3] * len(texts[at : at + cut]), SEED)
        for at in range(0, len(texts), cut)
    ]
    assert (together == np.concatenate(apart)).all()
    same = [[one.ljust(twins.PIECE) == other.ljust(twins.PIECE) for other in texts] for one in texts]
    for one, row in enumerate(same):
        for other, equal in enumerate(row):
            assert not equal or (together[one] == together[other]).all()


def test_another_seed_draws_other_hashes() -> None:
    text = b"the same text for both seeds"
    assert (twins.signatures([text], [0], 7) != twins.signatures([text], [0], 8)).mean() > 0.9


def test_rows_under_other_orders_are_never_similar(find: Find) -> None:
    text = " ".join(words(random.Random(3), 50)).encode()
    assert find([text] * 4, salts=[1, 2, 1, 2**64 - 1]) == [0, 1, 0, 3]


def test_short_rows_are_alike_only_when_equal(find: Find) -> None:
    texts = [b"", b"a", b"b", b"a", b"a b", b"12", b"13", b"12345678", b"12345679", b"", b"12345678"]
    assert find(texts) == [0, 1, 2, 1, 4, 5, 6, 7, 8, 0, 7]


def test_similar_rows_of_similar_rows_make_one_group_under_the_first(find: Find) -> None:
    base = " ".join(words(random.Random(4), 100))
    chain = [base[step * 8 :].encode() for step in range(12)]  # each like the next, the last unlike the first
    assert jaccard(chain[0], chain[1]) > 0.97
    assert jaccard(chain[0], chain[-1]) < 0.9
    assert find([b"a stranger", *chain]) == [0] + [1] * 12
    assert find([*chain[::-1], b"a stranger"]) == [0] * 12 + [12]


def test_groups_reach_over_every_chunk(find: Find) -> None:
    rng = random.Random(5)
    texts = [" ".join(words(rng, 12)).encode() for _ in range(2 * twins.CHUNK + 100)]
    expected = list(range(len(texts)))
    for twin, first in ((twins.CHUNK, 0), (len(texts) - 1, 5), (twins.CHUNK + 1, twins.CHUNK - 1)):
        texts[twin], expected[twin] = texts[first], first
    assert find(texts, batch=1000) == expected


def test_one_text_many_times_is_one_group(find: Find) -> None:
    assert find([b"the same again and again"] * (twins.CHUNK + 10), batch=1000) == [0] * (twins.CHUNK + 10)


def test_no_rows_have_no_twins(tmp_path: Path) -> None:
    (tmp_path / "signatures").touch()
    assert twins.first_similar(tmp_path / "signatures", 0, 0.9).tolist() == []
    assert twins.first_equal(np.empty((0, 2), dtype=np.uint64)).tolist() == []


@settings(max_examples=100, deadline=None, derandomize=True)
@given(keys=st.lists(st.tuples(st.integers(0, 3), st.integers(2**64 - 3, 2**64 - 1)), max_size=30))
def test_the_first_of_equal_keys_stands_for_all(keys: list[tuple[int, int]]) -> None:
    found = twins.first_equal(np.array(keys, dtype=np.uint64).reshape(-1, 2))
    assert found.tolist() == [keys.index(key) for key in keys]


@settings(max_examples=100, deadline=None, derandomize=True)
@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_white_space_and_composition_make_no_difference_but_case_does(text: str) -> None:
    plain = twins.plain(text)
    assert twins.plain(f" \n{text}\t") == plain
    assert twins.plain(unicodedata.normalize("NFD", text)) == plain
    assert twins.plain(text.replace(" ", " \u2003\r\n")) == plain
    assert twins.plain(f"{text} Polish") != twins.plain(f"{text} polish")
