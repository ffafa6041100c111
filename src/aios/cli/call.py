"""`aios call`: any row of the table of system calls."""

from __future__ import annotations

from typing import Any

import click
import msgspec

from aios.abi.request import CLASSES, CallOptions, Class
from aios.abi.wire import decode_request, row_named
from aios.cli.command import Command
from aios.cli.show import put_json
from aios.sdk.client import Client


@click.command(cls=Command)
@click.argument("name")
@click.argument("fields", metavar="[KEY=VALUE]...", nargs=-1)
@click.option("--json", "body", metavar="BODY", help="The request as one JSON object; KEY=VALUE then add to it.")
@click.option("--class", "cls", type=click.Choice(CLASSES), help="The class of this call, at most your own.")
@click.option("--deadline", type=float, metavar="SECONDS", help="End it after so long.")
@click.option("--stream", is_flag=True, help="Print each event as a line of JSON, then the reply.")
def call(name: str, fields: tuple[str, ...], body: str | None, cls: Class | None, deadline: float | None, stream: bool) -> None:
    """Make any system call.

    NAME is one of the reference, e.g. llm.generate. A VALUE is JSON, or else text; a KEY with dots reaches into an object:
    `aios call llm.generate prompt="Once upon a time" max_tokens=20`. Prints the reply as JSON.
    """
    row = row_named(name)
    try:
        options = CallOptions(cls=cls, deadline_s=deadline)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    request = decode_request(row, body_of(body, fields), "json")
    with Client() as kernel:
        if not stream:
            put_json(kernel.call(request, options))
            return
        for said in kernel.stream(request, options):
            put_json(said)


def body_of(body: str | None, fields: tuple[str, ...]) -> bytes:
    """The request as JSON: the object that was given, and the single fields. Raises click's `UsageError`."""
    if body is not None and not fields:
        return body.encode()
    whole = value_of(body) if body is not None else {}
    if not isinstance(whole, dict):
        raise click.UsageError("--json takes one JSON object")
    for text in fields:
        path, equals, value = text.partition("=")
        if not equals or not path:
            raise click.UsageError(f"`{text}` is no KEY=VALUE")
        put(whole, path.split("."), value_of(value), text)
    return msgspec.json.encode(whole)


def value_of(text: str) -> Any:
    """JSON, or else the text itself."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError):
        return text


def put(whole: dict[str, Any], path: list[str], value: Any, text: str) -> None:
    """Set a value at a path of keys, making the objects on the way."""
    place = whole
    for key in path[:-1]:
        inner = place.setdefault(key, {})
        if not isinstance(inner, dict):
            raise click.UsageError(f"`{text}`: `{key}` was given as something that is no object")
        place = inner
    place[path[-1]] = value
