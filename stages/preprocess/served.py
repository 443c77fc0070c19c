"""Served: whether a row holds the very prompts that a server shows the model, each with its answer after it.

A server renders the messages before an answer with `add_generation_prompt`. Templates may write that prompt in
another way than the same messages in a whole conversation: with `<think>` at its end, or with earlier reasoning. An
answer after other tokens would be learned in a place where no server ever asks for it.
"""

import dataclasses
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from stages.common import chat
from stages.common.chat import REASONING, ChatTokenizer, Encoded, Row
from stages.preprocess.row_values import DropRow

Spans = list[tuple[int, int]]
REASON = "prompt_mismatch"
NEAR = 200  # characters before a place in which the last special token is looked for
SHOWN = 40  # characters of a text in a message
OPENERS, REMEDIES = 64, 8  # ends of prompts and problems that are remembered
# Settings of chat templates that change the end of a prompt; `base.template_kwargs` makes them.
SETTINGS = {"enable_thinking": (False, True), "thinking": (False, True)}


class Served(NamedTuple):
    """What of a rendered row is in the loss.

    Attributes:
        spans: of each answer, from the end of its prompt to the end of its stop token; (start, end) in characters.
        left_out: answers before the last that are not in the loss, because the row does not hold their prompts or has
            other words than those that are right when they are the last.
        other_ends: answers in the loss without the token at their end, which is another one when they are the last.
    """

    spans: Spans
    left_out: int = 0
    other_ends: int = 0


class Judge:
    """Compares rows with the prompts that the template of one model makes of them."""

    def __init__(self, chat_tokenizer: ChatTokenizer) -> None:
        """Prepare what is the same for every row."""
        self.chat_tokenizer = chat_tokenizer
        tokenizer = chat_tokenizer.tokenizer
        self.stops = tuple(tokenizer.id_to_token(stop) or "" for stop in sorted(chat_tokenizer.stop_ids))
        self.stops = tuple(stop for stop in self.stops if stop) or ("\0",)
        added = sorted(tokenizer.get_added_tokens_decoder().values(), key=lambda token: -len(token.content))
        self.split = re.compile("|".join(re.escape(token.content) for token in added) or "(?!)")
        self.openers: dict[str, list[int]] = {}
        self.remedies: dict[str, str] = {}

    def find(self, row: Row, text: str, spans: Spans) -> Served:
        """Find what of a row's text is in the loss.

        Args:
            row: messages or text.
            text: what the template made of it.
            spans: its generation blocks, from `chat.render`.

        Raises:
            DropRow: the last answer does not follow the prompt that is served.
        """
        if "text" in row or all(start == end for start, end in spans):
            return Served(spans)
        messages = row["messages"]
        if len(spans) == 1 and len(messages) <= 3:  # one answer, the last message: a shorter way for most rows
            start = self._prompt_end(row, len(messages) - 1, text)
            return Served([(start, self._span_end(text, spans, start))])
        answers = [n for n, one in enumerate(messages) if one["role"] == "assistant" and one.get("weight") != 0]
        kept: Spans = []
        left_out = other_ends = 0
        for place, answer in enumerate(answers):
            try:
                start = self._prompt_end(row, answer, text)
                own = spans[place : place + 1] if len(spans) == len(answers) else spans
                end = self._span_end(text, own, start)
                if answer != len(messages) - 1:
                    alone = self._end_when_last(row, answer, text, start, end)
                    other_ends += alone < end
                    end = alone
                kept.append((start, end))
            except (DropRow, chat.Refused):
                if answer == answers[-1]:
                    raise
                left_out += 1
        return Served(kept, left_out, other_ends)

    def _prompt_end(self, row: Row, answer: int, text: str) -> int:
        try:
            prompt = chat.render_prompt(self.chat_tokenizer, row, answer)
        except chat.Refused as refused:
            raise DropRow(REASON, f"the template refuses the prompt: {refused.reason}") from None
        if not text.startswith(prompt):
            raise DropRow(REASON, self._difference(prompt, text, row["messages"][answer]))
        return len(prompt)

    def _span_end(self, text: str, spans: Spans, start: int) -> int:
        """Find the end of the answer that starts at `start`: its first stop token, or the end of its block."""
        first, last = spans[0]
        if len(spans) == 1 and first <= start < last and not text[last - 1].isspace():
            return last
        blocks = [(first, last) for first, last in spans if last > start]
        if not blocks or blocks[0][0] > start:
            missing = text[start : blocks[0][0]] if blocks else text[start:]
            raise DropRow(REASON, f"no generation block holds {missing[:SHOWN]!r}, which follows the prompt")
        end = blocks[0][0]
        for first, last in blocks:
            if first != end:  # the next answer
                break
            end = last
            # TRL's templates have a line end after the stop token in the block.
            words = last if not text[last - 1].isspace() else start + len(text[start:last].rstrip())
            if text.endswith(self.stops, start, words):
                return words
        return end

    def _end_when_last(self, row: Row, answer: int, text: str, start: int, end: int) -> int:
        """Compare an answer with what it is when the conversation ends with it, as it does when it is asked for.

        Returns:
            Where its words end that are the same.
        """
        alone, spans = chat.render(self.chat_tokenizer, {**row, "messages": row["messages"][: answer + 1]})
        if alone.startswith(text[:end]):
            return end
        last = self._span_end(alone, spans, start)
        for stop in self.stops:
            if alone.endswith(stop, start, last) and text.startswith(alone[: last - len(stop)]):
                words = last - len(stop)
                return words if start < words <= end else end
        raise DropRow(REASON)

    def _difference(self, prompt: str, text: str, answer: dict[str, Any]) -> str:
        """Say where the prompt and the row differ: by the template's part, if it is at the end of the prompt."""
        pairs = enumerate(zip(prompt, text, strict=False))
        same = next((n for n, (one, other) in pairs if one != other), min(len(prompt), len(text)))
        begin = same - (len(self._opener(prompt, same)) or min(same, SHOWN // 2))
        # The words of a row do not belong to the template: equal causes are counted together.
        words = [answer[key].strip()[:SHOWN] for key in ("content", REASONING) if answer.get(key, "").strip()]
        places = [place for word in words if 0 <= (place := text.find(word, begin)) < begin + NEAR]
        rest = repr(text[begin : min(places, default=same + SHOWN // 2)]) + (" and the answer" if places else "")
        if len(prompt) - begin <= SHOWN:
            return f"the prompt ends in {prompt[begin:]!r}, the row has {rest}"
        return f"the prompt has {prompt[begin : same + SHOWN // 2]!r}, the row {rest}"

    def compare(self, text: str, served: Served, encoded: Encoded) -> tuple[Encoded, Served]:
        """Compare the ids before each answer with those of its prompt alone. Tokens may join where an answer starts.

        Args:
            text: of the row.
            served: what of it is in the loss; each span starts where a prompt ends.
            encoded: the tokens of the text, and their mask.

        Returns:
            Both without the answers before the last that do not fit.

        Raises:
            DropRow: the last answer does not fit.
        """
        spans = served.spans
        if len(spans) == 1 and self._ends_alike(text, spans[0][0], encoded.mask.find(1), encoded):
            return encoded, served  # nearly always
        runs = [match.span() for match in re.finditer(b"\1+", encoded.mask)]
        fit = [
            (len(runs) == len(spans) and self._ends_alike(text, start, runs[n][0], encoded))
            or self._same_ids(text[:start], encoded)
            for n, (start, _) in enumerate(spans)
        ]
        if all(fit):
            return encoded, served
        if not fit[-1] or len(runs) != len(spans):
            raise DropRow(REASON, self._joined(text, spans[-1][0]))
        mask = bytearray(encoded.mask)
        for (first, after), fits in zip(runs, fit, strict=True):
            if not fits:
                mask[first:after] = bytes(after - first)
        kept = [span for span, fits in zip(spans, fit, strict=True) if fits]
        left_out = served.left_out + len(spans) - len(kept)
        return Encoded(encoded.ids, bytes(mask)), served._replace(spans=kept, left_out=left_out)

    def _joined(self, text: str, start: int) -> str:
        offsets = self.chat_tokenizer.tokenizer.encode(text, add_special_tokens=False).offsets
        joined = next((text[left:right] for left, right in offsets if left < start < right), "others")
        ending = self._opener(text, start) or text[max(0, start - SHOWN // 2) : start]
        return f"the prompt ends in {ending[-SHOWN:]!r}, whose last characters are in the token {joined[:SHOWN]!r}"

    def explain(self, row: Row, problem: str) -> str:
        """Add to a problem the setting of the template with which a row's last answer follows its prompt, if any."""
        if problem not in self.remedies and len(self.remedies) < REMEDIES:
            fits = (f"; base.template_kwargs {{{one}: {str(on).lower()}}} fits" for one, on in self._fitting(row))
            self.remedies[problem] = next(fits, "")
        return problem + self.remedies.get(problem, "")

    def _fitting(self, row: Row) -> Iterator[tuple[str, bool]]:
        for name, values in SETTINGS.items():
            for value in values:
                special: dict[str, Any] = self.chat_tokenizer.special | {name: value}
                other = Judge(dataclasses.replace(self.chat_tokenizer, special=special))
                try:
                    text, spans = chat.render(other.chat_tokenizer, row)
                    served = other.find(row, text, spans)
                    (encoded,) = chat.tokenize(other.chat_tokenizer, [(text, served.spans)])
                    other.compare(text, served, encoded)
                    yield name, value
                except (DropRow, chat.Refused):
                    continue

    def missing_stops(self, encoded: Encoded) -> int:
        """Count the answers in the loss whose last token is not a stop token."""
        ids, mask, stops = encoded.ids, encoded.mask, self.chat_tokenizer.stop_ids
        end = mask.rfind(1)
        missing = int(ids[end] not in stops)
        while (end := mask.rfind(b"\1\0", 0, end)) >= 0:
            missing += ids[end] not in stops
        return missing

    def _ends_alike(self, text: str, start: int, first: int, encoded: Encoded) -> bool:
        """Compare the ids of the prompt's end alone, from its last special token on.

        That is exact: the tokenizer takes special tokens out of a text before it splits and merges the pieces between
        them. So the ids up to the last special token of a prompt are the same whatever follows, and those after it
        are the ids of that piece. Where they stand in the row, right before the loss and after that special token,
        the row begins with the ids of the prompt. That piece is nearly always the same, such as `assistant` and a
        line end; its ids are remembered, unless a normalizer changes it, as one might by what stands before it. False
        means that this shows nothing, and that the prompt has to be tokenised.
        """
        for opener, ids in self.openers.items():
            if text.endswith(opener, 0, start):
                return encoded.ids[max(0, first - len(ids)) : first] == ids
        if len(self.openers) < OPENERS and (opener := self._opener(text, start)):
            tokenizer = self.chat_tokenizer.tokenizer
            ids = tokenizer.encode(opener, add_special_tokens=False).ids
            normal = tokenizer.normalizer is None or tokenizer.normalizer.normalize_str(opener) == opener
            if normal and opener.startswith(tokenizer.id_to_token(ids[0]) or "\0"):
                self.openers[opener] = ids
                return encoded.ids[max(0, first - len(ids)) : first] == ids
        return False

    def _opener(self, text: str, start: int) -> str:
        """Return the end of a prompt from its last special token on, or "" where none is near."""
        found = [match.start() for match in self.split.finditer(text, max(0, start - NEAR), start)]
        return text[found[-1] : start] if found else ""

    def _same_ids(self, prompt: str, encoded: Encoded) -> bool:
        ids = self.chat_tokenizer.tokenizer.encode(prompt, add_special_tokens=False).ids
        size = len(ids)
        return encoded.ids[:size] == ids and encoded.mask[size : size + 1] == b"\1" and encoded.mask[size - 1] != 1
