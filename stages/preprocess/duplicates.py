"""Duplicates: rows with the same content and rows with nearly the same content, found in flat memory.

Near-duplicates are found by MinHash (Broder 1997): the share of equal entries in two signatures estimates the Jaccard
similarity of the two rows' sets of 8-byte shingles. `rensa` computes the signatures. They stay on disk, and
locality-sensitive hashing (Leskovec et al., Mining of Massive Datasets, ch. 3) reads them band by band: rows with an
equal band are candidates, candidates with enough equal entries are near-duplicates. The index of a library would hold
every band of every row in memory, a kilobyte or more a row.
"""

import unicodedata
from array import array
from collections.abc import Iterator
from hashlib import blake2b
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa

if TYPE_CHECKING:
    from numpy.typing import NDArray

SHINGLE = 8  # bytes
ENTRIES = 128
BANDS = 16  # 8 entries each: compares 99 % of the pairs with similarity 0.85, and 6 % of those with 0.5
CHUNK = 8192  # pairs compared at a time
TOGETHER = 100  # rows whose signatures are computed at a time: their shingles fit into the processor's cache
# For bytes.translate: all white space of ASCII becomes a blank.
BLANKS = bytes(ord(" ") if chr(code).isspace() and code < 128 else code for code in range(256))


class Groups(NamedTuple):
    """For each kept row the first row of its group. The three arrays have one entry per kept row.

    Attributes:
        rows: its index among all rows.
        equal: index in `rows` of the first row with the same content.
        similar: index in `rows` of the first row of its group of near-duplicates.
    """

    rows: "NDArray[np.int64]"
    equal: "NDArray[np.int64]"
    similar: "NDArray[np.int64]"


def compare_rows(spoken: list[str], contexts: list[str], seed: int) -> "tuple[list[bytes], NDArray[np.uint32]]":
    """Compute what rows are compared by.

    Args:
        spoken: the messages of each row, without the system message.
        contexts: roles, system message and tools of each row. Rows with different contexts are never near-duplicates.
        seed: for the hash functions of MinHash.

    Returns:
        A key for each row, 16 bytes, equal for duplicates; and the MinHash signatures, shape (rows, ENTRIES).
    """
    texts = [normalize(text) for text in spoken]
    known = {context: int.from_bytes(blake2b(context.encode(), digest_size=8).digest()) for context in set(contexts)}
    salts = [known[context] for context in contexts]  # most rows have no system message, and so equal contexts
    keys = [
        blake2b(text, digest_size=16, key=salt.to_bytes(8)).digest() for text, salt in zip(texts, salts, strict=True)
    ]
    parts = [
        signatures(texts[start : start + TOGETHER], salts[start : start + TOGETHER], seed)
        for start in range(0, len(texts), TOGETHER)
    ]
    return keys, np.concatenate(parts) if parts else np.empty((0, ENTRIES), dtype=np.uint32)


def group_rows(facts: pa.Table, signature_file: Path, similarity: float) -> Groups:
    """Find the duplicates and near-duplicates among the rows that are kept so far.

    Args:
        facts: of every row; `drop_reason` is -1 for a kept row, `duplicate_key` is the key of its content.
        signature_file: the signatures of the kept rows, in order.
        similarity: the least Jaccard similarity of near-duplicates.
    """
    rows = np.flatnonzero(facts["drop_reason"].to_numpy() < 0)
    column = facts["duplicate_key"].combine_chunks().take(pa.array(rows))
    keys = np.frombuffer(column.buffers()[1], dtype=np.uint64, count=2 * len(rows)).reshape(-1, 2)
    return Groups(rows, first_equal(keys), first_similar(signature_file, len(rows), similarity))


def normalize(text: str) -> bytes:
    """Remove differences in white space and composed characters. Case stays: it may be the task."""
    if text.isascii():  # the same, faster
        found = text.encode().translate(BLANKS)
        while b"  " in found:
            found = found.replace(b"  ", b" ")
        return found.strip(b" ")
    return " ".join(unicodedata.normalize("NFC", text).split()).encode("utf-8")


def signatures(texts: list[bytes], salts: list[int], seed: int) -> "NDArray[np.uint32]":
    """Compute MinHash signatures.

    Args:
        texts: the rows' texts, as `normalize` returns them.
        salts: one number per row; rows with different numbers are never similar.
        seed: for the hash functions.

    Returns:
        Shape (rows, ENTRIES).
    """
    from rensa import RMinHash

    padded = [text.ljust(SHINGLE) for text in texts]
    data = b"".join(padded)
    windows: NDArray[np.uint64] = np.ndarray((len(data) - SHINGLE + 1,), dtype="<u8", buffer=data, strides=(1,))
    counts = np.array([len(text) - SHINGLE + 1 for text in padded])
    ends = np.cumsum([len(text) for text in padded])
    inside = np.ones(len(data), dtype=bool)
    for back in range(1, SHINGLE):
        inside[ends - back] = False  # shingles that would reach into the next row
    shingles = windows[inside[: len(windows)]] ^ np.repeat(np.array(salts, dtype=np.uint64), counts)
    shingles = (shingles ^ (shingles >> np.uint64(29))) * np.uint64(0x9E3779B97F4A7C15)
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.uint64)
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(np.ascontiguousarray(shingles), offsets, ENTRIES, seed)
    entries = array("I", chain.from_iterable(matrix.to_rows()))  # faster than np.array of lists
    return np.frombuffer(entries, dtype=np.uint32).reshape(-1, ENTRIES)


def first_equal(keys: "NDArray[np.uint64]") -> "NDArray[np.int64]":
    """Return for each row the index of the first row with the same key.

    Args:
        keys: shape (rows, 2): 128 bits each.
    """
    order = np.lexsort((keys[:, 1], keys[:, 0]))  # stable: equal keys keep their order
    new = np.ones(len(order), dtype=bool)
    new[1:] = (keys[order[1:]] != keys[order[:-1]]).any(axis=1)
    starts = np.flatnonzero(new)
    first = np.empty(len(order), dtype=np.int64)
    first[order] = order[np.repeat(starts, np.diff(np.append(starts, len(order))))]
    return first


def first_similar(file: Path, rows: int, similarity: float) -> "NDArray[np.int64]":
    """Return for each row the index of the first row of its group: similar rows, and rows similar to those.

    Args:
        file: the signatures of all rows, in order.
        rows: how many rows.
        similarity: the share of equal entries, an estimate of Jaccard similarity, from which rows are similar.
    """
    first = np.arange(rows)
    for left, right in _candidates(file, rows):
        table = np.memmap(file, dtype=np.uint32, mode="r", shape=(rows, ENTRIES))
        similar = (table[left] == table[right]).mean(axis=1) >= similarity
        del table  # returns its memory pages
        for one, other in zip(left[similar].tolist(), right[similar].tolist(), strict=True):
            low, high = sorted((_root(first, one), _root(first, other)))
            first[high] = low
    for row in np.flatnonzero(first != np.arange(rows)).tolist():
        first[row] = _root(first, row)
    return first


def _candidates(file: Path, rows: int) -> "Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]":
    """Return pairs of rows with an equal band: each row with the one before it, and with the first."""
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
