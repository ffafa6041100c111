"""The door for unmodified OpenAI clients that want vectors: `POST /v1/embeddings`."""

from __future__ import annotations

import asyncio
import base64
import struct
from collections.abc import Mapping
from typing import Literal

import msgspec

from aios.abi.errors import AiosError, Invalid
from aios.abi.llm import Embed, Embeddings
from aios.abi.wire import check_json, refuse
from aios.ports.kernel import Kernel
from aios.server.exchange import Handler, HttpRequest, Refusal, Writer
from aios.server.hints import Hints, answer_headers, options_of, patience_of, session_of
from aios.server.openai_words import error_body, status_of
from aios.server.repeats import Repeats

AT_ONCE = 16
"""Vectors that are written before the loop gets its turn: half a millisecond as numbers."""

_encode = msgspec.json.Encoder().encode


class EmbeddingsBody(msgspec.Struct):
    """What clients send. `input`: a text, texts, or, from clients that cut into tokens themselves, numbers or lists of them."""

    input: str | tuple[str | int | tuple[int, ...], ...]
    model: str = ""
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = None
    aios: Hints | None = None


_decoder = msgspec.json.Decoder(EmbeddingsBody)


class EmbeddingsDoor:
    """`POST /v1/embeddings`."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._repeats = Repeats(kernel)
        self.routes: Mapping[tuple[str, str], Handler] = {("POST", "/v1/embeddings"): self._embed}

    def refusal(self, error: AiosError, request_id: str) -> Refusal:
        status = status_of(error)
        return Refusal(status, error_body(error, status, error.field))

    def broken(self, error: AiosError, request_id: str) -> bytes:
        raise AssertionError("no answer of this door is a stream")

    async def _embed(self, request: HttpRequest, writer: Writer) -> None:
        body = read_body(request.body)
        wanted = embed_of(body)
        options = options_of(request, body.aios)
        caller = self._kernel.attach(request.token, session_of(request))
        writer.be_patient(patience_of(request))
        answer = await self._repeats.call(request, writer, caller, wanted, options)
        found: Embeddings = answer.value
        cut = [(b"x-aios-cut", b"%d" % found.cut)] if found.cut else []
        await writer.whole(200, await _written(found, body.encoding_format == "base64"), [*answer_headers(answer), *cut])


def read_body(raw: bytes) -> EmbeddingsBody:
    """The body. Raises `Invalid` with the path of the field."""
    check_json(raw)
    try:
        return _decoder.decode(raw)
    except (msgspec.DecodeError, RecursionError, UnicodeError) as error:
        refuse(error)


def embed_of(body: EmbeddingsBody) -> Embed:
    """The request that a body asks for. Raises `Invalid` with the path of the field."""
    texts = (body.input,) if isinstance(body.input, str) else body.input
    if any(not isinstance(text, str) for text in texts):
        raise Invalid(
            "`input` holds numbers of tokens, which are those of another model: send texts (in LangChain's `OpenAIEmbeddings`:"
            " `check_embedding_ctx_length=False`)",
            field="input",
        )
    try:
        given = tuple([text for text in texts if isinstance(text, str)])
        return Embed(model=body.model or "default", texts=given, dimensions=body.dimensions)
    except ValueError as error:
        raise Invalid(str(error).replace("`texts`", "`input`"), field="input") from None


async def _written(found: Embeddings, base64_wanted: bool) -> bytes:
    """The body of the answer. Many numbers take long to write: others have their turn in between."""
    pieces = []
    for at, vector in enumerate(found.vectors):
        if at % AT_ONCE == AT_ONCE - 1:
            await asyncio.sleep(0)
        embedding: object = base64.b64encode(vector).decode() if base64_wanted else _numbers(vector)
        pieces.append(_encode({"object": "embedding", "index": at, "embedding": embedding}))
    tokens = found.usage.input_tokens
    return b'{"object":"list","data":[%b],"model":%b,"usage":{"prompt_tokens":%d,"total_tokens":%d}}' % (
        b",".join(pieces), _encode(found.model), tokens, tokens
    )  # fmt: skip


def _numbers(vector: bytes) -> tuple[float, ...]:
    return struct.unpack(f"<{len(vector) // 4}f", vector)
