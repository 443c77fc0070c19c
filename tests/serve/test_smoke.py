"""`make smoke` without a server: the choice of the model, and the comparison with eval.

tests/serve/test_served.py runs all of it against a server.
"""

from pathlib import Path

import pytest

from stages.common import chat
from stages.common.tokens import TokenRow
from tools.common.endpoints import Endpoint
from tools.smoke.__main__ import choose
from tools.smoke.api import Reply
from tools.smoke.parity import check_prompts, check_shares

ONE = Endpoint("lockstep-awq-1a2b3c4d", "http://127.0.0.1:8000/v1", "models/awq", "awq", None, {})
TWO = ONE._replace(name="lockstep-merged-5e6f7a8b")


def test_of_several_models_one_is_named() -> None:
    assert choose([ONE], None) == ONE
    assert choose([ONE, TWO], TWO.name) == TWO
    with pytest.raises(Exception, match=f"make smoke NAME={ONE.name}"):
        choose([ONE, TWO], None)


@pytest.mark.parametrize(
    ("right", "known", "undecided", "passed"),
    [
        (50, 0.5, 0.0, True),
        (48, 0.5, 0.0, True),
        (47, 0.5, 0.0, False),
        (53, 0.5, 0.0, False),
        (45, 0.5, 0.2, True),  # two standard deviations of what 20 answers may change are 6
        (43, 0.5, 0.2, False),
    ],
)
def test_the_shares_are_those_of_eval_within_a_bound(
    byte_base: Path, right: int, known: float, undecided: float, passed: bool
) -> None:
    chat_tokenizer = chat.load(byte_base)
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "yes"}]
    (encoded,) = chat.encode(chat_tokenizer, [{"messages": messages}])
    rows = [TokenRow(encoded.ids, list(encoded.mask))] * 100
    replies = [
        Reply("yes" if place < right else "yes.", [], [], "stop" if place < right else "length", 0.0, 0.0, [])
        for place in range(100)
    ]
    verdicts = check_shares(replies, rows, chat_tokenizer, {"stop_rate": known, "exact_match": known}, undecided)
    assert [(one.name, one.passed, one.figures) for one in verdicts] == [
        ("stop rate", passed, {"stop_rate": right / 100}),
        ("exact match", passed, {"exact_match": right / 100}),
    ]


@pytest.mark.parametrize(("change", "passed"), [(0, True), (1, False), (-1, False)])
def test_the_servers_prompt_is_how_a_row_begins_up_to_its_answer(byte_base: Path, change: int, passed: bool) -> None:
    chat_tokenizer = chat.load(byte_base)
    row = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "yes"}]}
    (encoded,) = chat.encode(chat_tokenizer, [row])
    (prompt,) = chat.encode_prompts(chat_tokenizer, [chat.without_answer(row)])
    asked = encoded.ids[: len(prompt) + change]  # with think tokens, say, or without
    verdict = check_prompts([Reply("", [], asked, "stop", 0.0, 0.0, [])], [TokenRow(encoded.ids, list(encoded.mask))])
    assert (verdict.name, verdict.passed) == ("prompts", passed)
    assert not check_prompts(
        [Reply("", [], [], "stop", 0.0, 0.0, [])], [TokenRow(encoded.ids, list(encoded.mask))]
    ).passed
