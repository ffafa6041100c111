"""What happens, as server-sent events without an end: `GET /v1/events`."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import parse_qsl

import msgspec

from aios.abi.errors import Invalid
from aios.abi.event import EventPage, ReadEvents
from aios.ports.kernel import Kernel
from aios.server.exchange import HttpRequest, Writer
from aios.server.hints import session_of

WAIT_S = 20.0
"""How long one reading waits for something to happen. The stream says something more often than that by itself."""
MAX_FIELDS = 32
_encoder = msgspec.json.Encoder()


async def feed(kernel: Kernel, request: HttpRequest, writer: Writer) -> None:
    """Tell what happened and what happens, each thing under its number and kind, until the client goes away.

    Every reading is a call of `event.read`, so the caller hears what it may hear there. Raises what that does, as long as
    nothing was told: afterwards it is an event `error`.
    """
    wanted = asked(request)
    caller = kernel.attach(request.token, session_of(request))
    page: EventPage = (await kernel.call(caller, wanted)).value
    writer.open([])
    while True:
        drained = writer.write(b"".join(told(page)))
        if drained is not None:
            await drained
        page = (await kernel.call(caller, ReadEvents(after=page.next, kinds=wanted.kinds, wait_s=WAIT_S))).value


def asked(request: HttpRequest) -> ReadEvents:
    """From where on, and which kinds: `?after=N&kinds=account,incident`, N or what a client that comes again heard last.

    Raises `Invalid`.
    """
    try:
        fields = parse_qsl(request.query.decode("latin-1"), keep_blank_values=True, max_num_fields=MAX_FIELDS)
    except ValueError:
        raise Invalid(f"there are more than {MAX_FIELDS} fields in the address") from None
    kinds: list[str] = []
    after = "0"
    for name, value in fields:
        if name == "after":
            after = value
        elif name == "kinds":
            kinds += value.split(",")
        else:
            raise Invalid(f"`{name[:80]}` is no field of this address: say `after` or `kinds`", field=name[:80])
    after = request.header(b"last-event-id") or after
    if not (after.isascii() and after.isdecimal() and len(after) <= 19):
        raise Invalid("`after` must be the number of an event", field="after")
    return ReadEvents(after=int(after), kinds=tuple(kinds))


def told(page: EventPage) -> Iterator[bytes]:
    """A page on the wire. What was forgotten before it was read has no number."""
    if page.lost:
        yield b'event: lost\ndata: {"lost":%d}\n\n' % page.lost
    for event in page.events:
        kind = str(type(event).__struct_config__.tag).encode()
        yield b"id: %d\nevent: %b\ndata: %b\n\n" % (event.seq, kind, _encoder.encode(event))
