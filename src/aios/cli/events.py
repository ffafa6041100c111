"""`aios events`: what happened."""

from __future__ import annotations

from collections.abc import Iterator
from typing import assert_never, get_args

import click

from aios.abi.event import (
    AccountChanged,
    AnyEvent,
    CallEnded,
    CallSettled,
    CoreChanged,
    Dispatched,
    EventPage,
    HostChanged,
    Incident,
    KernelChanged,
    Preempted,
    ProcessChanged,
    ReadEvents,
    Signalled,
    Strayed,
)
from aios.cli.command import Command, as_json
from aios.cli.money import amount_of
from aios.cli.show import clock, duration, one_line, put_json, say
from aios.sdk.client import Client

WAIT_S = 20.0
KINDS = tuple(str(kind.__struct_config__.tag) for kind in get_args(AnyEvent))


@click.command(cls=Command)
@click.option("-f", "--follow", is_flag=True, help="Go on with what happens from now.")
@click.option("--after", type=click.IntRange(0), default=0, metavar="N", help="Only events after number N.")
@click.option("--kind", "kinds", type=click.Choice(KINDS), multiple=True, help="Only this kind; may be given again.")
@as_json
@click.option("--jsonl", is_flag=True, help="Print one line of JSON per event.")
def events(follow: bool, after: int, kinds: tuple[str, ...], as_json: bool, jsonl: bool) -> None:
    """Show what happened.

    Oldest first: processes, signals, turns, calls, accounts and their limits, runaways, cores, hosts and the kernel itself.
    Programs hear the same from `GET /v1/events?kinds=account,incident`, as server-sent events.
    """
    if as_json and follow:
        raise click.UsageError("what goes on is no single object: use --jsonl with --follow")
    with Client() as kernel:
        pages = read_pages(kernel, after, kinds, follow)
        if as_json:
            put_json(whole(pages, after))
            return
        for page in pages:
            if page.lost:
                say(f"aios: {page.lost:,} events were forgotten before they were read")
            for event in page.events:
                if jsonl:
                    put_json(event)
                else:
                    click.echo(line_of(event))


def read_pages(kernel: Client, after: int, kinds: tuple[str, ...], follow: bool) -> Iterator[EventPage]:
    """Pages of events after a cursor: those that there are, or, to follow, without an end."""
    while True:
        page = kernel.call(ReadEvents(after=after, kinds=kinds, wait_s=WAIT_S if follow else 0.0))
        yield page
        if not page.events and not follow:
            return
        after = page.next


def whole(pages: Iterator[EventPage], after: int) -> EventPage:
    """All pages as one."""
    events: list[AnyEvent] = []
    lost = 0
    last = EventPage(events=(), next=after)
    for last in pages:
        events += last.events
        lost += last.lost
    return EventPage(events=tuple(events), next=last.next, lost=lost)


def line_of(event: AnyEvent) -> str:
    """An event as one line for people: number, time, kind, what."""
    kind = str(type(event).__struct_config__.tag)
    return one_line(f"{event.seq:>6}  {clock(event.at_ns)}  {kind:<8}  {about(event)}")


def about(event: AnyEvent) -> str:
    """What happened, in words."""
    match event:
        case ProcessChanged():
            ended = f" with {event.outcome}" if event.outcome else ""
            again = f", start {event.restart + 1}" if event.restart else ""
            return f"{event.name} ({event.cls}) {event.state}{ended}{again}{_detail(event.detail)}"
        case Signalled():
            return f"{event.signal} for {event.name} by {event.by}"
        case Dispatched():
            left = ", ".join(f"{count} {cls}" for cls, count in event.waiting.items() if count)
            where = f"{event.core}, which has read its beginning," if event.near else event.core
            return f"{event.name} ({event.cls}) on {where} by {event.reason}{f', left waiting: {left}' if left else ''}"
        case Preempted():
            why = f"by {event.reason}" if event.change == "resumed" else f"for {event.by or 'the next in turn'}"
            return f"{event.name} ({event.cls}) on {event.core} {event.change} after {event.tokens} tokens, {why}"
        case CallEnded():
            return about_call(event)
        case CallSettled():
            cost, reserved = amount_of("money", event.cost), amount_of("money", event.reserved)
            return f"{event.name} on {event.core} was heard out{tokens_of(event)}, {cost} of {reserved} reserved"
        case Incident():
            return f"{event.name} {event.change}: {event.detail}"
        case AccountChanged():
            return f"{event.account} {event.change}{_detail(event.detail)}"
        case CoreChanged():
            return f"{event.core} {event.change}{f', process {event.os_pid}' if event.os_pid else ''}{_detail(event.detail)}"
        case HostChanged():
            running = f", in it {', '.join(event.running)}" if event.running else ""
            return f"{event.os_pid} {event.change}, {event.program}{running}{_detail(event.detail)}"
        case Strayed():
            times = f" ({event.attempts} times)" if event.attempts > 1 else ""
            return f"{event.name} tried to reach {event.target}: denied{times}"
        case KernelChanged():
            late = f" by {duration(event.lag_s)}" if event.change == "late" else ""
            return f"{event.change}{late}{_detail(event.detail)}"
        case _:
            assert_never(event)


def about_call(event: CallEnded) -> str:
    """A call: whose, how it ended, how long it waited and took, where, how many tokens, and what it cost."""
    waited = f", waited {duration((event.turn_ns - event.asked_ns) / 1e9)}" if event.turn_ns else ""
    took = duration((event.at_ns - (event.turn_ns or event.asked_ns)) / 1e9)
    stood_back = f", stood back {duration(event.frozen_s)}" if event.frozen_s else ""
    where = f", {event.core}" if event.core else ""
    again = f", {event.attempts} attempts" if event.attempts > 1 else ""
    came_to = tokens_of(event)
    cost = f", {amount_of('money', event.cost)}" if event.cost else ""
    more = ", is heard out" if event.heard_out else ""
    row = f"{event.row} {event.about}" if event.about else event.row
    return f"{event.name} ({event.cls}) {row} {event.outcome}{waited}, took {took}{stood_back}{where}{came_to}{again}{cost}{more}"


def tokens_of(event: CallEnded | CallSettled) -> str:
    """How many tokens a call read and said, if any."""
    return f", {event.input_tokens:,} + {event.output_tokens:,} tokens" if event.input_tokens or event.output_tokens else ""


def _detail(text: str) -> str:
    return f": {text}" if text else ""
