"""The rows `board.*`."""

from __future__ import annotations

from functools import reduce

import msgspec

from aios.abi.board import (
    GetNotice,
    Headline,
    Headlines,
    ListNotices,
    Notice,
    Notices,
    Posted,
    PutNotice,
    WatchBoard,
)
from aios.abi.errors import Invalid, NotFound
from aios.abi.label import KERNEL, Label
from aios.abi.waits import Wait
from aios.kernel.boards.boards import Board, BoardId, Boards, Entry, Pattern
from aios.kernel.process import Call
from aios.kernel.syscall import Syscall, check_name, check_range, json_text
from aios.ports.clock import Clock

MOST_KEY = 200
MOST_TYPE = 64
MOST_LIMIT = 1000
MOST_REPLY_BYTES = 1_000_000
"""Of values in one reply; a single value may be larger."""
MOST_WAIT_S = 366 * 86400.0
MOST_CURSOR = 2**53

_decode = msgspec.json.Decoder().decode


class BoardCalls:
    """Puts, reads, lists and watches."""

    def __init__(self, boards: Boards, clock: Clock) -> None:
        self._boards = boards
        self._clock = clock

    def syscalls(self) -> dict[str, Syscall]:
        return {
            "board.put": Syscall(self._put, prepare=_board_of),
            "board.get": Syscall(self._get, prepare=_board_of),
            "board.list": Syscall(self._list, prepare=_board_of),
            "board.watch": Syscall(self._watch, prepare=_board_of),
        }

    async def _put(self, call: Call) -> Posted:
        request, writer = call.request, call.process
        assert isinstance(request, PutNotice)
        check_key("key", request.key)
        check_type(request.type)
        if request.if_version is not None:
            check_range("if_version", request.if_version, 0, MOST_CURSOR)
        if request.remove and request.value is not None:
            raise Invalid("what is removed has no `value`", field="value")
        text = None if request.remove else json_text("value", request.value)
        entry = Entry(
            request.key, 0, text, writer.label, writer.pid, writer.name, self._clock.now_ns(), request.type
        )  # fmt: skip
        return Posted(self._boards.put(_id(call, request.board), entry, request.if_version))

    async def _get(self, call: Call) -> Notice:
        request = call.request
        assert isinstance(request, GetNotice)
        check_key("key", request.key)
        board = self._boards.find(_id(call, request.board))
        entry = board.entries.get(request.key) if board is not None else None
        if entry is None or entry.text is None:
            raise NotFound(f"nothing stands on board `{request.board}` under `{request.key}`", field="key")
        call.label = entry.label
        return _notice(entry)

    async def _list(self, call: Call) -> Headlines:
        request = call.request
        assert isinstance(request, ListNotices)
        pattern = check_pattern(request.pattern)
        check_range("limit", request.limit, 1, MOST_LIMIT)
        check_range("after", request.after, 0, MOST_CURSOR)
        board = self._boards.find(_id(call, request.board))
        entries = board.after(request.after) if board is not None else iter(())
        found = [entry for entry in entries if entry.text is not None and pattern.matches(entry.key)]
        shown = found[: request.limit]
        call.label = _joined(shown)
        last = shown[-1].version if shown else request.after
        return Headlines(tuple([_headline(entry) for entry in shown]), last, len(found) > len(shown))

    async def _watch(self, call: Call) -> Notices:
        request = call.request
        assert isinstance(request, WatchBoard)
        pattern = check_pattern(request.pattern)
        check_type(request.type)
        check_range("limit", request.limit, 1, MOST_LIMIT)
        check_range("after", request.after, 0, MOST_CURSOR)
        if request.wait_s is not None:
            check_range("wait_s", request.wait_s, 0, MOST_WAIT_S)
        id = _id(call, request.board)
        found, cursor = _news(self._boards.find(id), request, pattern)
        if not found and request.wait_s != 0:
            wait = Wait(code="M", on=f"`{pattern.text}` on board {request.board}", since_ns=call.asked_ns)
            call.waits = lambda: wait
            await self._boards.wait(id, pattern, request.type, request.wait_s)
            found, cursor = _news(self._boards.find(id), request, pattern)
        call.label = _joined(found)
        return Notices(tuple([_notice(entry) for entry in found]), cursor)


def _news(board: Board | None, request: WatchBoard, pattern: Pattern) -> tuple[list[Entry], int]:
    """What a watcher has not seen and wants, as much as fits, and the cursor after it."""
    found: list[Entry] = []
    size, cursor = 0, request.after
    for entry in board.after(request.after) if board is not None else ():
        if pattern.matches(entry.key) and (not request.type or request.type == entry.type):
            size += len(entry.text or b"")
            if found and (len(found) >= request.limit or size > MOST_REPLY_BYTES):
                return found, cursor
            found.append(entry)
        cursor = entry.version
    return found, cursor


def _board_of(call: Call) -> tuple[str, ...]:
    """The board that a call is about. Raises `Invalid` for what cannot be its name."""
    request = call.request
    assert isinstance(request, PutNotice | GetNotice | ListNotices | WatchBoard)
    check_name("board", request.board)
    return (f"/boards/{request.board}",)


def _id(call: Call, board: str) -> BoardId:
    return call.process.tenant, board


def _joined(entries: list[Entry]) -> Label:
    return reduce(Label.join, [entry.label for entry in entries], KERNEL)


def _notice(entry: Entry) -> Notice:
    return Notice(
        key=entry.key, version=entry.version, value=_decode(entry.text) if entry.text is not None else None, label=entry.label,
        writer=entry.writer, name=entry.name, at_ns=entry.at_ns, type=entry.type, removed=entry.text is None,
    )  # fmt: skip


def _headline(entry: Entry) -> Headline:
    return Headline(
        key=entry.key, version=entry.version, writer=entry.writer, name=entry.name, at_ns=entry.at_ns, type=entry.type,
        size_bytes=len(entry.text or b""),
    )  # fmt: skip


def check_key(field: str, key: str) -> None:
    """Raise `Invalid` for what cannot be a key."""
    if not 0 < len(key) <= MOST_KEY or not key.isprintable() or "*" in key:
        raise Invalid(f"`{field}` must have 1 to {MOST_KEY} characters, none of them `*` or a control character", field=field)


def check_pattern(pattern: str) -> Pattern:
    """A pattern. Raises `Invalid` for what is neither a key nor a beginning and `*`."""
    if pattern != "*":
        check_key("pattern", pattern.removesuffix("*"))
    return Pattern(pattern)


def check_type(type: str) -> None:
    """Raise `Invalid` for what cannot be the name of a type."""
    if len(type) > MOST_TYPE or not type.isprintable():
        raise Invalid(f"`type` must have at most {MOST_TYPE} characters, and no control characters", field="type")
