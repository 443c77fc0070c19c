"""Twins: rows that say the same, and rows that say nearly the same, found in flat memory.

Near-duplicates are found by MinHash (Broder 1997): how many of two signatures' entries agree estimates the Jaccard
similarity of two rows' sets of 8-byte pieces. Signatures come from `rensa`. They stay on disk, and locality-sensitive
hashing (Leskovec et al., Mining of Massive Datasets, ch. 3) goes through them band by band: rows that agree on a
whole band are candidates, candidates that agree on enough entries are twins. A library's index would hold every band
of every row in memory, a kilobyte or more for each row.
"""

import unicodedata
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

PIECE = 8  # bytes
ENTRIES = 128
BANDS = 16  # 8 entries each: compares 99 % of the pairs as similar as 0.85, and 6 % of those at 0.5
CHUNK = 8192  # pairs compared at a time


def plain(text: str) -> bytes:
    """Give the text without differences of white space and of composed characters. Case stays: it may be the task."""
    return " ".join(unicodedata.normalize("NFC", text).split()).encode("utf-8")


def number(text: str) -> int:
    """Hash a text to 64 bits."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest())


def signatures(texts: list[bytes], salts: list[int], seed: int) -> "NDArray[np.uint32]":
    """Compute MinHash signatures.

    Args:
        texts: what the rows say, as `plain` gives it.
        salts: one number per row; rows with different numbers are never similar.
        seed: draws the hash functions.

    Returns:
        Shape (rows, ENTRIES).
    """
    from rensa import RMinHash

    padded = [text.ljust(PIECE) for text in texts]
    data = b"".join(padded)
    windows: NDArray[np.uint64] = np.ndarray((len(data) - PIECE + 1,), dtype="<u8", buffer=data, strides=(1,))
    counts = np.array([len(text) - PIECE + 1 for text in padded])
    ends = np.cumsum([len(text) for text in padded])
    inside = np.ones(len(data), dtype=bool)
    for back in range(1, PIECE):
        inside[ends - back] = False  # pieces that would reach into the next row
    pieces = windows[inside[: len(windows)]] ^ np.repeat(np.array(salts, dtype=np.uint64), counts)
    pieces = (pieces ^ (pieces >> np.uint64(29))) * np.uint64(0x9E3779B97F4A7C15)
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.uint64)
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(np.ascontiguousarray(pieces), offsets, ENTRIES, seed)
    return np.array(matrix.to_rows(), dtype=np.uint32)


def first_equal(keys: "NDArray[np.uint64]") -> "NDArray[np.int64]":
    """Give for each row the first row with the same key.

    Args:
        keys: shape (rows, 2): 128 bits each.
    """
    order = np.lexsort((keys[:, 1], keys[:, 0]))  # stable: equal keys stay in order
    new = np.ones(len(order), dtype=bool)
    new[1:] = (keys[order[1:]] != keys[order[:-1]]).any(axis=1)
    starts = np.flatnonzero(new)
    first = np.empty(len(order), dtype=np.int64)
    first[order] = order[np.repeat(starts, np.diff(np.append(starts, len(order))))]
    return first


def first_similar(file: Path, rows: int, similarity: float) -> "NDArray[np.int64]":
    """Give for each row the first row of its group; similar rows, and rows similar to those, make a group.

    Args:
        file: signatures of all rows, one after the other.
        rows: how many.
        similarity: share of entries that must agree, estimating Jaccard similarity.
    """
    first = np.arange(rows)
    for left, right in _candidates(file, rows):
        table = np.memmap(file, dtype=np.uint32, mode="r", shape=(rows, ENTRIES))
        similar = (table[left] == table[right]).mean(axis=1) >= similarity
        del table  # gives its pages back
        for one, other in zip(left[similar].tolist(), right[similar].tolist(), strict=True):
            low, high = sorted((_root(first, one), _root(first, other)))
            first[high] = low
    for row in np.flatnonzero(first != np.arange(rows)).tolist():
        first[row] = _root(first, row)
    return first


def _candidates(file: Path, rows: int) -> "Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]":
    """Give pairs of rows that agree on a band: each with the one before it, and with the first."""
    width = ENTRIES // BANDS
    for band in range(BANDS):
        hashes = np.empty(rows, dtype=np.uint64)
        with file.open("rb") as signatures_:
            for start in range(0, rows, CHUNK):
                part = np.frombuffer(signatures_.read(CHUNK * ENTRIES * 4), dtype=np.uint32).reshape(-1, ENTRIES)
                entries = np.ascontiguousarray(part[:, band * width : (band + 1) * width]).view(np.uint64)
                hashes[start : start + len(part)] = _mixed(entries)
        order = np.argsort(hashes, kind="stable")
        new = np.ones(rows, dtype=bool)
        new[1:] = hashes[order[1:]] != hashes[order[:-1]]
        starts = np.flatnonzero(new)
        firsts = order[np.repeat(starts, np.diff(np.append(starts, rows)))]
        again = np.flatnonzero(~new)
        pairs = np.concatenate(
            [np.stack([firsts[again], order[again]]), np.stack([order[again - 1], order[again]])], 1
        )
        pairs = np.unique(pairs[:, pairs[0] != pairs[1]], axis=1)
        for start in range(0, pairs.shape[1], CHUNK):
            yield pairs[0, start : start + CHUNK], pairs[1, start : start + CHUNK]


def _mixed(entries: "NDArray[np.uint64]") -> "NDArray[np.uint64]":
    mixed = np.zeros(len(entries), dtype=np.uint64)
    for column in entries.T:
        mixed = (mixed ^ column) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(31)
    return mixed


def _root(first: "NDArray[np.int64]", row: int) -> int:
    while first[row] != row:
        first[row] = first[first[row]]
        row = int(first[row])
    return row
