"""What a query of OpenAI's Responses asks for: numbers within bounds, and the items of an input, page by page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs

import msgspec

from aios.abi.errors import Invalid, NotFound
from aios.server.exchange import HttpRequest
from aios.server.kept import Turn

LIST_DEFAULT, LIST_MOST = 20, 100
MOST_FIELDS = 20
"""Of a query."""

_encode = msgspec.json.Encoder().encode
_items = msgspec.json.Decoder(str | list[dict[str, Any]] | None)

Query = Mapping[str, list[str]]


def query_of(request: HttpRequest) -> Query:
    """The fields of a query. Raises `Invalid` if there are too many."""
    try:
        return parse_qs(request.query.decode("latin-1"), max_num_fields=MOST_FIELDS)
    except ValueError:
        raise Invalid(f"the query has more than {MOST_FIELDS} fields", field="query") from None


def number_of(query: Query, name: str, default: int, least: int, most: int) -> int:
    """A whole number of a query. Raises `Invalid`."""
    text = query.get(name, [str(default)])[-1]
    number = int(text) if text.removeprefix("-").isdecimal() and len(text) < 10 else least - 1
    if not least <= number <= most:
        raise Invalid(f"`{name}` must be a whole number from {least} to {most}", field=name)
    return number


def input_items(turn: Turn, query: Query) -> bytes:
    """A page of the items of a response's input, the last first unless they are asked for the other way round."""
    order, most = query.get("order", ["desc"])[-1], number_of(query, "limit", LIST_DEFAULT, 1, LIST_MOST)
    if order not in ("asc", "desc"):
        raise Invalid("`order` must be `asc` or `desc`", field="order")
    items = _listed(turn)
    if order == "desc":
        items.reverse()
    after = query.get("after", [""])[-1]
    if after:
        places = [place for place, item in enumerate(items) if item["id"] == after]
        if not places:
            raise NotFound(f"there is no item `{after[:100]}` in this input", field="after")
        items = items[places[0] + 1 :]
    page = items[:most]
    first, last = (page[0]["id"], page[-1]["id"]) if page else ("", "")
    more = len(items) > len(page)
    return _encode({"object": "list", "data": page, "first_id": first, "last_id": last, "has_more": more})


def _listed(turn: Turn) -> list[dict[str, Any]]:
    """The items as they were sent, with ids where they had none, and texts as parts."""
    sent = _items.decode(turn.input)
    if isinstance(sent, str):
        sent = [{"role": "user", "content": sent}]
    mark = turn.id.partition("_")[2]
    return [_item(item, f"{mark}_in{at}") for at, item in enumerate(sent or ())]


def _item(item: dict[str, Any], mark: str) -> dict[str, Any]:
    kind = item.get("type") or ("message" if item.get("role") else "item_reference")
    begins = {"message": "msg", "function_call": "fc", "function_call_output": "fco"}.get(kind, "item")
    found = {**item, "id": item.get("id") or f"{begins}_{mark}", "type": kind, "status": item.get("status") or "completed"}
    content = item.get("content")
    if kind == "message" and isinstance(content, str):
        said = item.get("role") == "assistant"
        part = {"type": "output_text", "text": content, "annotations": []} if said else {"type": "input_text", "text": content}
        found["content"] = [part]
    return found
