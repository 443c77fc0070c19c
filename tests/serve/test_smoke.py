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
from tools.smoke.parity import check_exact_match

ONE = Endpoint("lockstep-awq-1a2b3c4d", "http://127.0.0.1:8000/v1", "models/awq", "awq", None, {})
TWO = ONE._replace(name="lockstep-merged-5e6f7a8b")


def test_of_several_models_one_is_named() -> None:
    assert choose([ONE], None) == ONE
    assert choose([ONE, TWO], TWO.name) == TWO
    with pytest.raises(Exception, match=f"make smoke NAME={ONE.name}"):
        choose([ONE, TWO], None)


@pytest.mark.parametrize(
    ("right", "known", "passed"), [(50, 0.5, True), (48, 0.5, True), (47, 0.5, False), (53, 0.5, False)]
)
def test_the_share_of_right_answers_is_that_of_eval_within_a_bound(
    byte_base: Path, right: int, known: float, passed: bool
) -> None:
    chat_tokenizer = chat.load(byte_base)
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "yes"}]
    (encoded,) = chat.encode(chat_tokenizer, [{"messages": messages}])
    rows = [TokenRow(encoded.ids, list(encoded.mask))] * 100
    replies = [Reply("yes" if place < right else "yes.", [], [], "stop", 0.0, 0.0) for place in range(100)]
    verdict = check_exact_match(replies, rows, chat_tokenizer, known)
    assert (verdict.passed, verdict.figures) == (passed, {"exact_match": right / 100})
