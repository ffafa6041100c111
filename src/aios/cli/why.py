"""`aios why`: why a process does what it does, and what would move it."""

from __future__ import annotations

import click

from aios.abi.process import CallInfo, Explain, Explanation
from aios.cli.command import Command, as_json
from aios.cli.select import find, full_name
from aios.cli.show import one_line, put_json, since, state_of, wait_of
from aios.sdk.client import Client


@click.command(cls=Command)
@click.argument("process", metavar="PID|NAME")
@as_json
def why(process: str, as_json: bool) -> None:
    """Say why an agent waits, and what would move it.

    Names what it waits for, who holds that, who is served before, and how long it should take.
    """
    with Client() as kernel:
        found = kernel.call(Explain(pid=find(kernel, process).pid))
    if as_json:
        put_json(found)
    else:
        click.echo("\n".join(sentences(found)))


def sentences(found: Explanation) -> list[str]:
    """An explanation as lines."""
    process = found.process
    lines = [f"{full_name(process)}  {process.cls}  {state_of(process)}  {one_line(found.reason)}"]
    lines += [line for call in found.calls for line in about_call(call)]
    if found.more:
        lines.append(f"  and {found.more} more calls")
    if found.moves:
        lines.append("would move it: " + "; ".join(map(one_line, found.moves)))
    return lines


def about_call(call: CallInfo) -> list[str]:
    """An open call: since when, what it waits for, and what is ahead of it."""
    does = f"acts{f' on {call.core}' if call.core else ''}"
    if call.wait:
        does = f"waits{', as' if call.wait.is_reason else ' for'} {wait_of(call.wait)}"
    lines = [f"  {call.row}  for {since(call.since_ns)}: {does}"]
    if call.ahead_count:
        some = ", ".join(f"{ahead.name} ({ahead.cls})" for ahead in call.ahead)
        rest = call.ahead_count - len(call.ahead)
        lines.append(f"    ahead of it {call.ahead_count}: {some}{f', and {rest} more' if rest > 0 else ''}")
    if call.rule:
        lines.append(f"    its turn comes by {call.rule}, if nothing else comes")
    if call.lenders:
        lines.append(f"    for it waits {', '.join(call.lenders)}, and pays if it is served in their turn")
    return lines
