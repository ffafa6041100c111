"""The list of models, in the shape of the client that asks: Anthropic's say their version, all others are told OpenAI's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from aios.abi.llm import Model
from aios.server.exchange import HttpRequest

Entry = dict[str, Any]

NO_DATE = "1970-01-01T00:00:00Z"
"""When a model came out is not known here."""


def entries(models: Iterable[Model], request: HttpRequest) -> Mapping[str, Entry]:
    """What the client is told of each name that a model has; Anthropic's wire knows models that talk, and no others."""
    if _is_anthropic(request):
        return {name: _anthropic(name, model) for name, model in _named(models) if "chat" in model.features}
    return {name: _openai(name, model) for name, model in _named(models)}


def listing(found: Mapping[str, Entry], request: HttpRequest) -> Mapping[str, Any]:
    """All of them, on one page."""
    data = list(found.values())
    if not _is_anthropic(request):
        return {"object": "list", "data": data}
    names: list[str | None] = [*found] or [None]
    return {"data": data, "has_more": False, "first_id": names[0], "last_id": names[-1]}


def _named(models: Iterable[Model]) -> Iterable[tuple[str, Model]]:
    return [(name, model) for model in models for name in (model.name, *model.aliases)]


def _is_anthropic(request: HttpRequest) -> bool:
    return b"anthropic-version" in request.headers


def _openai(name: str, model: Model) -> Entry:
    return {"id": name, "object": "model", "created": 0, "owned_by": "aios", "context_window": model.window}


def _anthropic(name: str, model: Model) -> Entry:
    return {
        "type": "model", "id": name, "display_name": name, "created_at": NO_DATE, "lifecycle": "active",
        "max_input_tokens": model.window, "max_tokens": model.window,
    }  # fmt: skip
