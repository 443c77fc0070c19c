"""`make smoke` where nothing is served, or several models are, and what it calls the same as in eval.

tests/test_served.py runs all of it against a server.
"""

from pathlib import Path

import pytest
from conftest import fail_in

from stages.common import chat
from stages.common.tokens import TokenRow
from tools import smoke
from tools.serving import parity
from tools.serving.endpoint import Endpoint
from tools.serving.trial import Reply

ONE = Endpoint("lockstep-awq-1a2b3c4d", "http://127.0.0.1:8000/v1", "models/awq", "awq", None, {})
TWO = ONE._replace(name="lockstep-merged-5e6f7a8b")


def test_where_nothing_is_served_it_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text((Path(__file__).parents[1] / "params.yaml").read_text(encoding="utf-8"))
    (tmp_path / ".env").write_text("API_KEY=k\nWEBUI_SECRET_KEY=s\nADMIN_EMAIL=e\nADMIN_PASSWORD=p\n")
    message = "nothing is served from this checkout; run `make serve` first"
    assert fail_in(tmp_path, smoke.main) == message


def test_of_several_models_one_is_named() -> None:
    assert smoke.choose([ONE], None) == ONE
    assert smoke.choose([ONE, TWO], TWO.name) == TWO
    with pytest.raises(Exception, match=f"served are {ONE.name}, {TWO.name}; name one of them"):
        smoke.choose([ONE, TWO], None)


@pytest.mark.parametrize(
    ("right", "known", "passed"), [(50, 0.5, True), (48, 0.5, True), (47, 0.5, False), (53, 0.5, False)]
)
def test_the_share_of_right_answers_is_that_of_eval_within_a_bound(
    byte_base: Path, right: int, known: float, passed: bool
) -> None:
    speaker = chat.load(byte_base)
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "yes"}]
    (encoded,) = chat.encode(speaker, [{"messages": messages}])
    rows = [TokenRow(encoded.ids, list(encoded.mask))] * 100
    replies = [Reply("yes" if place < right else "yes.", [], [], "stop", 0.0, 0.0) for place in range(100)]
    verdict = parity.exact_match(replies, rows, speaker, known)
    assert (verdict.passed, verdict.figures) == (passed, {"exact_match": right / 100})
