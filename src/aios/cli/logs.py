"""`aios logs`: what a process printed."""

from __future__ import annotations

from collections.abc import Iterator

import click

from aios.abi.process import LogLine, LogLines, Logs
from aios.cli.command import Command, as_json
from aios.cli.select import find
from aios.cli.show import one_line, put_json
from aios.sdk.client import Client

WAIT_S = 20.0
"""How long one call waits for the next line; then it is asked again."""


@click.command(cls=Command)
@click.argument("process", metavar="PID|NAME")
@click.option("-f", "--follow", is_flag=True, help="Go on until it has ended.")
@as_json
def logs(process: str, follow: bool, as_json: bool) -> None:
    """Show what an agent printed.

    Control sequences are made visible. With --json and --follow: one line of JSON per line.
    """
    with Client() as kernel:
        pages = read_lines(kernel, find(kernel, process).pid, follow)
        if as_json and not follow:
            put_json(whole(pages))
            return
        for page in pages:
            for line in page.lines:
                if as_json:
                    put_json(line)
                else:
                    click.echo(one_line(line.text))


def read_lines(kernel: Client, pid: str, follow: bool) -> Iterator[LogLines]:
    """The pages of a process's lines: those that there are, or, to follow, until it has ended."""
    after = 0
    while True:
        page = kernel.call(Logs(pid=pid, after=after, wait_s=WAIT_S if follow else 0.0))
        yield page
        if not page.lines and (page.ended or not follow):
            return
        after = page.next


def whole(pages: Iterator[LogLines]) -> LogLines:
    """All pages as one."""
    lines: list[LogLine] = []
    last = LogLines(lines=(), next=0, ended=False)
    for last in pages:
        lines += last.lines
    return LogLines(lines=tuple(lines), next=last.next, ended=last.ended)
