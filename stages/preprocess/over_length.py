"""Over length: rows with more than preprocess.max_length tokens, dropped or cut after the last full answer that fits.

A row of many megabytes is judged by its beginning, before anything else looks at its text: time and memory grow with
the file, not with what a tokenizer makes of one endless word.
"""

from stages.common import chat
from stages.common.chat import ChatTokenizer, Encoded, Row
from stages.preprocess.params import PreprocessParams
from stages.preprocess.row_values import DropRow, strings
from stages.preprocess.served import Judge, Served, Spans

PIECE = 16  # characters per token of the beginning that is tokenised
MARGIN = 1.1  # the end of the beginning may be tokenised otherwise in the row, and the template adds tokens


def shorten(content: Row, text: str, chat_tokenizer: ChatTokenizer, config: PreprocessParams) -> tuple[Row, int]:
    """Cut a row that is far too long for `max_length`, or drop it, without tokenising all of it.

    Args:
        content: messages or text.
        text: its full text.
        chat_tokenizer: the model's tokenizer.
        config: max_length, and what to do with longer rows.

    Returns:
        What is left, still longer than `max_length` where it is plain text, and about how many tokens were cut; the
        row itself and 0 where its beginning does not show that it is too long.

    Raises:
        DropRow: the row is dropped, or no answer of it fits.
    """
    start = text[: PIECE * config.max_length]
    size = len(chat_tokenizer.tokenizer.encode(start, add_special_tokens=False))
    longest = max(map(len, chat_tokenizer.tokenizer.get_vocab(with_added_tokens=True)))
    limit = longest * config.max_length  # no text of more characters has so few tokens
    if size <= MARGIN * config.max_length and len(text) <= limit:
        return content, 0
    if config.over_length != "truncate":
        raise DropRow("over_length")
    kept = len(start) if size > MARGIN * config.max_length else limit
    if "text" in content:
        cut: Row = {"text": content["text"][:kept]}
    else:
        length, last = 0, 0
        for number, message in enumerate(content["messages"], start=1):
            length += len(message["content"])
            if length > kept:
                break
            last = number if message["role"] == "assistant" and "tool_calls" not in message else last
        if not last:
            raise DropRow("over_length")
        cut = content | {"messages": content["messages"][:last]}
        if sum(map(len, strings(cut))) > limit:  # tools, tool calls or reasoning
            raise DropRow("over_length")
        kept = sum(len(message["content"]) for message in cut["messages"])
    return cut, max(1, (len(text) - kept) * size // len(start))


def truncate(
    content: Row,
    rendered: tuple[str, list[tuple[int, int]]],
    encoded: Encoded,
    judge: Judge,
    limit: int,
) -> tuple[Row, tuple[str, Spans], Encoded, Served] | None:
    """Cut plain text at the limit, a conversation after the last full answer that fits.

    Args:
        content: messages or text.
        rendered: its text and the spans in the loss, from `chat.render`.
        encoded: its tokens, more than `limit`.
        judge: finds what of a conversation is in the loss.
        limit: tokens that are left at most.

    Returns:
        What is left, its text and spans in the loss, its tokens, and what is in the loss; None where no answer fits.
    """
    chat_tokenizer = judge.chat_tokenizer
    if "text" in content:
        text, spans = rendered
        end = chat_tokenizer.tokenizer.encode(text, add_special_tokens=False).offsets[limit - 1][1]
        cut = {"text": text[spans[0][0] : end]}
        return cut, rendered, Encoded(encoded.ids[:limit], encoded.mask[:limit]), Served(spans)
    messages = content["messages"]
    answers = [
        n for n, message in enumerate(messages) if message["role"] == "assistant" and "tool_calls" not in message
    ]
    for last in reversed(answers[:-1]):
        cut = content | {"messages": messages[: last + 1]}
        try:
            text, spans = chat.render(chat_tokenizer, cut)
            served = judge.find(cut, text, spans)
        except (DropRow, chat.Refused):  # another answer may end in a place that the template can ask for
            continue
        (tokens,) = chat.tokenize(chat_tokenizer, [(text, served.spans)])
        if len(tokens.ids) <= limit:
            return cut, (text, served.spans), tokens, served
    return None
