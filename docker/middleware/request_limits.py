"""Request limits: what one request may ask of vLLM, and turns between clients, so that none of them holds the server.

ASGI middleware that `vllm serve --middleware request_limits.RequestLimits` loads into vLLM's own process; tools/serve
puts this folder on its path, and the limits into REQUEST_LIMITS as JSON (params `serve.limits`). Only the standard
library is imported.

vLLM answers first come, first served. Here a request waits until its client's turn: clients take turns, and each may
hold two thirds of the places that the others leave. A place is an answer that vLLM computes at the same time, or a
kilobyte of the request, since long prompts hold the server, too. vLLM itself therefore never has a queue.
"""

import asyncio
import base64
import hashlib
import hmac
import json
import math
import os
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

PATHS = ("/v1/chat/completions", "/v1/completions")
BODY_BYTES = 4 * 2**20  # as in docker/proxy.conf
PLACE_BYTES = 1024  # with 4096, 64 prompts of 3 KB slow the first token of another client 7 to 12 times, with this 4
STOP_SECONDS = 10  # vLLM needs less to stop


class Refused(Exception):
    """A request that is answered here; the text is for the client."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class Turns:
    """Places of the server, and the requests that wait for them, by client."""

    def __init__(self, places: int) -> None:
        self.places = places
        self.held: dict[str, int] = {}
        self.waiting: OrderedDict[str, list[tuple[int, asyncio.Future[None]]]] = OrderedDict()

    def wait(self, client: str, wanted: int) -> "asyncio.Future[None]":
        """Return a future that is done when the request has its places."""
        future = asyncio.get_running_loop().create_future()
        self.waiting.setdefault(client, []).append((wanted, future))
        self.start()
        return future

    def leave(self, client: str, wanted: int, future: "asyncio.Future[None]") -> None:
        """Give places back, or stop waiting for them."""
        if future.done() and not future.cancelled():
            self.held[client] -= wanted
            if not self.held[client]:
                del self.held[client]
        else:
            queue = self.waiting[client]
            queue.remove((wanted, future))
            if not queue:
                del self.waiting[client]
        self.start()

    def start(self) -> None:
        """Start requests in turn, as many as fit.

        A client that holds nothing is not passed over: the others wait until the places that it needs are free.
        """
        moved = True
        while moved:
            moved = False
            for client in list(self.waiting):
                wanted, future = self.waiting[client][0]
                held, all_held = self.held.get(client, 0), sum(self.held.values())
                share = (self.places - (all_held - held)) * 2 // 3
                if all_held + wanted > self.places or (held and held + wanted > share):
                    if not held:
                        return
                    continue
                self.waiting[client].pop(0)
                if self.waiting[client]:
                    self.waiting.move_to_end(client)
                else:
                    del self.waiting[client]
                self.held[client] = held + wanted
                future.set_result(None)
                moved = True


class RequestLimits:
    """The middleware. It passes every request on that is not a question with the right key: vLLM answers those."""

    def __init__(self, app: App) -> None:
        self.app = app
        self.limits = json.loads(os.environ["REQUEST_LIMITS"])
        self.key = os.environ["VLLM_API_KEY"].encode()
        self.turns = Turns(self.limits["places"])
        self.requests: dict[str, int] = {}

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http" or scope["method"] != "POST" or scope["path"] not in PATHS:
            return await self.app(scope, receive, send)
        headers = dict(scope["headers"])
        scheme, _, key = headers.get(b"authorization", b"").partition(b" ")
        if scheme.lower() != b"bearer" or not hmac.compare_digest(key, self.key):
            return await self.app(scope, receive, send)
        client = self.client(scope, headers)
        self.requests[client] = self.requests.get(client, 0) + 1
        try:
            if self.requests[client] > self.limits["requests"]:
                raise Refused(429, f"a client may have {self.limits['requests']} requests at a time; try again later")
            await self.answer(client, scope, receive, send)
        except Refused as refused:
            await refuse(send, refused)
        finally:
            self.requests[client] -= 1
            if not self.requests[client]:
                del self.requests[client]

    async def answer(self, client: str, scope: Message, receive: Receive, send: Send) -> None:
        """Wait for places, and let vLLM answer.

        Raises:
            Refused: the request asks for too much, or its answer takes too long and has not begun.
        """
        body = await read(receive)
        if body is None:
            return
        long = min(math.ceil(len(body) / PLACE_BYTES), self.turns.places * 2 // 3)
        wanted = max(self.sequences(body), long)
        gone = asyncio.ensure_future(receive())  # its next message: the client has left
        place = self.turns.wait(client, wanted)
        try:
            await asyncio.wait((place, gone), return_when=asyncio.FIRST_COMPLETED)
            if place.done():
                await self.compute(body, gone, scope, send)
        finally:
            self.turns.leave(client, wanted, place)
            gone.cancel()

    async def compute(self, body: bytes, gone: "asyncio.Future[Message]", scope: Message, send: Send) -> None:
        """Let vLLM answer. When the time is over, vLLM is told that the client has left, and stops.

        Raises:
            Refused: the answer takes too long and has not begun.
        """
        late = asyncio.get_running_loop().create_future()
        parts = [{"type": "http.request", "body": body, "more_body": False}]
        begun = stream = False

        async def receive() -> Message:
            if parts:
                return parts.pop()
            await asyncio.wait((gone, late), return_when=asyncio.FIRST_COMPLETED)
            return {"type": "http.disconnect"}

        async def watch(message: Message) -> None:
            nonlocal begun, stream
            if late.done():
                raise OSError("the client has left")  # as a server says it
            if message["type"] == "http.response.start":
                begun = True
                stream = dict(message["headers"]).get(b"content-type", b"").startswith(b"text/event-stream")
            await send(message)

        work = asyncio.ensure_future(self.app(scope, receive, watch))
        try:
            await asyncio.wait((work,), timeout=self.limits["seconds"])
            if work.done():
                return await work
            late.set_result(None)
            await asyncio.wait((work,), timeout=STOP_SECONDS)
            if work.done() and not work.cancelled():
                work.exception()  # what vLLM makes of a client that has left
        finally:
            work.cancel()
        refused = Refused(400, f"the answer took more than {self.limits['seconds']} seconds; ask for less")
        if not begun:
            raise refused
        text = b"data: " + shaped(refused) + b"\n\ndata: [DONE]\n\n" if stream else b""
        await send({"type": "http.response.body", "body": text, "more_body": False})

    def client(self, scope: Message, headers: dict[bytes, bytes]) -> str:
        """Tell who asks: the chat page's user, by the header that the page signs, or else the address."""
        if user := signed_user(headers.get(b"x-openwebui-user-jwt", b""), self.limits["user_key"].encode()):
            return f"user {user}"
        # nginx sets the header, whatever the client sends.
        return f"address {headers.get(b'x-real-ip', b'').decode('latin-1')}"

    def sequences(self, body: bytes) -> int:
        """Count the answers that a request asks for: `n` for each of its prompts.

        Raises:
            Refused: they are too many, the request is not readable, or it would end vLLM (0.32, with adapters).
        """
        try:
            asked = json.loads(body)
        except (RecursionError, ValueError):
            raise Refused(400, "the request is not JSON") from None
        if not isinstance(asked, dict):
            raise Refused(400, "the request is not a JSON object")
        wants_prompt = asked.get("prompt_logprobs") is not None or (
            asked.get("echo") and asked.get("logprobs") is not None
        )
        if wants_prompt and not self.limits["prompt_logprobs"]:
            raise Refused(400, "log-probabilities of a prompt are not computed here: an adapter is served unmerged")
        number = asked.get("n")
        if number is not None and (not isinstance(number, int) or isinstance(number, bool) or number < 1):
            raise Refused(400, "n must be an integer from 1")
        prompts = max(count(asked.get("prompt")), count(asked.get("prompt_embeds")))
        most = min(self.limits["answers"], self.turns.places)
        if (total := (number or 1) * prompts) > most:
            raise Refused(400, f"{total} answers in one request (n times prompts); at most {most} are allowed")
        return total


def count(prompt: Any) -> int:
    """Count the prompts of a request: a text or token ids are one, a list of them several."""
    return len(prompt) if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int) else 1


def signed_user(token: bytes, key: bytes) -> str:
    """Return the id of the chat page's user, or "" if the token (a JWT, HS256) is not signed by the page."""
    signed, _, signature = token.rpartition(b".")
    try:
        given = base64.urlsafe_b64decode(signature + b"==")
        if not key or not hmac.compare_digest(hmac.new(key, signed, hashlib.sha256).digest(), given):
            return ""
        payload = json.loads(base64.urlsafe_b64decode(signed.partition(b".")[2] + b"=="))
        return str(payload["sub"]) if payload["exp"] > time.time() else ""
    except (KeyError, TypeError, ValueError):
        return ""


async def read(receive: Receive) -> "bytes | None":
    """Read the body of a request; None if the client leaves before its end.

    Raises:
        Refused: it is too large.
    """
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        if len(body) > BODY_BYTES:
            raise Refused(413, f"the request has more than {BODY_BYTES} bytes")
        if not message.get("more_body"):
            return bytes(body)


def shaped(refused: Refused) -> bytes:
    """Return an error as OpenAI's clients read it."""
    kind = "invalid_request_error" if refused.status < 429 else "rate_limit_error"
    error = {"message": str(refused), "type": kind, "param": None, "code": refused.status}
    return json.dumps({"error": error}).encode()


async def refuse(send: Send, refused: Refused) -> None:
    """Answer with an error."""
    headers = [(b"content-type", b"application/json"), (b"retry-after", b"1")]
    await send(
        {"type": "http.response.start", "status": refused.status, "headers": headers[: 1 + (refused.status == 429)]}
    )
    await send({"type": "http.response.body", "body": shaped(refused) + b"\n"})
