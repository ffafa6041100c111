"""The most that a request to a model can come to, before it is made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

import msgspec

from aios.abi.account import MODEL, PROVIDER
from aios.abi.llm import Embed, Generate, Message, Part, Score, Usage
from aios.abi.price import FREE, NO_WORDS, Price
from aios.kernel.amounts import Amount, Bound
from aios.ports.core import CoreInfo
from aios.ports.prices import LOCAL

PER_MESSAGE = 32
"""Tokens that a model's template puts around a message, at most."""
PER_REQUEST = 512
"""And around them all."""
PER_IMAGE = 20_000
DEAR_IMAGES, PER_DEAR_IMAGE = "gpt-4o-mini", 50_000
"""A model that counts a picture as 2,833 tokens and 5,667 for each of its tiles, of which there are at most eight."""
USEFUL_TOKENS = 256
"""Of an answer: a call for which there is less room waits, if it has asked for more."""
MOST_TOKENS = 2**40 - 1
"""In a usage that can be true, of each kind: all bits below 2^40."""
SERVICES = frozenset(
    ("compound_custom", "documents", "mcp_servers", "models", "plugins", "preset", "provider", "route", "search_parameters",
     "search_settings", "web_search_options")
)  # fmt: skip
"""Fields of providers' own that ask them for what is paid by its uses, which nobody can count beforehand, or for another model or
another seller of it, whose prices are not those that were reserved. Of what costs nothing, too: it may stand before others."""
PLAIN = frozenset(
    """
    annotations audio bad_words best_of cache_prompt chat_template_kwargs echo enable_thinking format frequency_penalty
    grammar guided_choice guided_grammar guided_json guided_regex id_slot ignore_eos include_reasoning
    include_stop_str_in_output json_schema keep_alive length_penalty max_new_tokens metadata min_p min_tokens mirostat
    mirostat_eta mirostat_tau modalities n_predict options parse_reasoning priority prompt_cache_key
    prompt_cache_options prompt_cache_retention prompt_mode random_seed reasoning reasoning_format reasoning_split
    repeat_last_n repeat_penalty repetition_penalty return_token_ids return_tokens_as_token_ids safe_prompt
    safety_identifier service_tier skip_special_tokens stop_token_ids store structured_outputs suffix think thinking
    thinking_budget timings_per_token tool_choice tool_stream tools top_a top_k truncation typical_p usage user
    verbosity
    """.split()
)
"""Fields of a wire's own that change what a model says, and not what is paid for: where something is, all others are refused
under a limit, because a few bytes of them may ask for a search, a conversation that is kept elsewhere, or another model."""
OWN_TOOLS = frozenset({"function", "custom"})
"""Kinds of tools that the client runs itself: all others are the provider's, and paid by their uses."""
OWN_PARTS = frozenset({"input_audio"})
"""Kinds of content, besides texts and pictures, that are in the request: of a file, a few bytes may be a thousand pages."""

NO_PRICE = FREE.worst(0)

_encode = msgspec.json.Encoder().encode


def bound_of(request: Generate | Score, info: CoreInfo, price: Price | None, model: str, counted: int | None = None) -> Bound:
    """The most that a request can come to on a core, at a price (None: nobody knows it). A token is at least a byte of UTF-8.

    `counted`: tokens of the question, where that is known better than by its bytes.
    """
    asked, media = asked_of(request, info), has_media(request)
    given = asked_bound(request, info, model) if counted is None else counted
    if isinstance(request, Score):
        most = least = 0
    else:
        most = request.max_tokens or info.window
        if info.local:
            most = min(most, info.window)
        least = min(most, USEFUL_TOKENS) * request.n
        most *= request.n
    if info.local:
        given = min(given, info.window * (len(request.labels) + 1 if isinstance(request, Score) else 1))
    unknown = _bought(asked) if asked else ()
    if _is_elsewhere(request.messages):
        unknown += ("files",)
    sized = not unknown
    if asked and price is not None and not price.is_nothing:
        unknown += tuple(sorted(asked.keys() - PLAIN - SERVICES))
    priced = price is not None and not unknown
    worst = NO_PRICE if price is None else price.worst(given, media=media, words=words_of(asked))
    return Bound(
        Amount(worst.of(given, 0), given, 1), worst.output, most, least, priced, info.local, tags_of(model, info.billed_by),
        sized or info.local, unknown,
    )  # fmt: skip


def _bought(asked: Mapping[str, Any]) -> tuple[str, ...]:
    """The words of a provider's own that ask for what nobody knows the price of."""
    tools = asked.get("tools") or ()
    own = isinstance(tools, list | tuple) and all(isinstance(each, dict) and each.get("type") in OWN_TOOLS for each in tools)
    return (*sorted(SERVICES.intersection(asked)), *(() if own else ("tools",)))


def _is_elsewhere(messages: tuple[Message, ...]) -> bool:
    """Whether a question refers to what is not in it, and is of whatever size: a file, a film, an earlier sound."""
    for message in messages:  # of each call: texts are passed over quickly
        if message.extra is not None and "audio" in message.extra:
            return True
        if type(message.content) is tuple and any(
            part.type == "other" and (part.extra or {}).get("type") not in OWN_PARTS for part in message.content
        ):
            return True
    return False


def _images(messages: tuple[Message, ...]) -> int:
    return sum(part.type == "image" for part in _parts(messages))


def _parts(messages: tuple[Message, ...]) -> Iterator[Part]:
    return (part for message in messages if type(message.content) is tuple for part in message.content)


def bound_of_embedding(request: Embed, window: int, model: str) -> Bound:
    """The most that texts can come to. What embeds is on this machine, and is not paid for."""
    most = sum(min(_bytes(text) + PER_MESSAGE, window) for text in request.texts)
    return Bound(Amount(0, most, 1), 0, 0, 0, tags=tags_of(model, LOCAL))


@lru_cache(maxsize=1000)
def tags_of(model: str, provider: str) -> tuple[str, ...]:
    """The accounts that a call of a model is of, beside those of its caller."""
    return f"{MODEL}{model}", f"{PROVIDER}{provider}"


def asked_bound(request: Generate | Score, info: CoreInfo, model: str) -> int:
    """Tokens of all that a request gives a model of a core to read, at most."""
    given = input_bound(request.messages, request.prompt or "")
    if isinstance(request, Score):
        given *= len(request.labels) + 1
        return given + sum(map(_bytes, request.labels)) * 2 + _bytes(request.baseline or "") * len(request.labels)
    asked = asked_of(request, info)
    given += 2 * len(_encode(request.tools)) if request.tools else 0
    given += 2 * len(_encode(request.response_format)) if request.response_format else 0
    given += len(_encode(asked)) if asked else 0
    if DEAR_IMAGES in model and has_media(request):
        given += _images(request.messages) * (PER_DEAR_IMAGE - PER_IMAGE)
    return given


def input_bound(messages: tuple[Message, ...], prompt: str) -> int:
    """Tokens of a question, at most."""
    return PER_REQUEST + _bytes(prompt) + sum(map(message_bound, messages))


def message_bound(message: Message) -> int:
    """Tokens of a message, at most."""
    content = message.content
    if type(content) is str and not message.tool_calls and message.extra is None:
        return PER_MESSAGE + _bytes(content) + _bytes(message.name or "") + _bytes(message.tool_call_id or "")
    images = 0 if type(content) is str else sum(part.type != "text" for part in content)  # type: ignore[union-attr]  # parts
    return PER_MESSAGE * (1 + len(message.tool_calls)) + len(_encode(message)) + images * PER_IMAGE


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def has_media(request: Generate | Score) -> bool:
    """Whether there are pictures or sounds in a question."""
    for message in request.messages:  # of each call twice: texts are passed over quickly
        if type(message.content) is tuple and any(part.type != "text" for part in message.content):
            return True
    return False


def asked_of(request: Generate | Score, info: CoreInfo) -> Mapping[str, Any]:
    """What a core hears of a request in words of its own wire."""
    return request.extra or {} if isinstance(request, Generate) and request.wire == info.driver else {}


def words_of(asked: Mapping[str, Any]) -> frozenset[str]:
    """The same as prices name it: `service_tier=priority`."""
    return frozenset([f"{name}={value}" for name, value in asked.items() if type(value) is str]) if asked else NO_WORDS


def can_be_true(usage: Usage) -> bool:
    """Whether so many tokens can have been made: what a provider says is not to be trusted."""
    bits = usage.input_uncached | usage.cache_read | usage.output_visible | usage.reasoning | usage.cache_write  # of each call
    return 0 <= bits <= MOST_TOKENS


def money_of(usage: Usage, price: Price | None, request: Generate | Score, info: CoreInfo) -> int:
    """Nano-dollars of a usage that can be true, of a request on a core: a seller may be dearer than the table."""
    if price is None:
        return usage.billed
    return max(price.cost(usage, media=has_media(request), words=words_of(asked_of(request, info))), usage.billed)
