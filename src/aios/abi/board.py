"""Boards: shared places of versioned values, read and watched by whoever was granted them."""

from __future__ import annotations

from typing import Any

import msgspec

from aios.abi.label import Label
from aios.abi.request import Reply, Request


class Headline(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What stands on a board under a key, without its value.

    `version`: grows with every put on the board, over all keys, so it is also the cursor to watch after. `type`: the name
    that its writer gave to the value's type. `writer` and `name`: pid and name of who put it. `removed`: it was taken down.
    """

    key: str
    version: int
    writer: str
    name: str
    at_ns: int
    type: str = ""
    size_bytes: int = 0
    removed: bool = False


class Notice(Reply, frozen=True, kw_only=True, omit_defaults=True):
    """A value on a board. `label`: of its writer when it was put; whoever reads it takes it on. The rest as of `Headline`."""

    key: str
    version: int
    value: Any
    label: Label
    writer: str
    name: str
    at_ns: int
    type: str = ""
    removed: bool = False


class Posted(Reply, frozen=True):
    """It stands on the board, in this version."""

    version: int


class PutNotice(Request[Posted], frozen=True, kw_only=True):
    """Put a JSON value (at most 256 KiB) on a board under a key, in place of what stood there.

    `board`: 1 to 64 letters, digits, `.`, `:`, `-` or `_`. `key`: 1 to 200 characters, such as `draft/1`.
    `if_version`: only if this version stands there (0: only if nothing does); else `Conflict`, with the version that does.
    `type`: a name for the value's type; what stands there with a type is only replaced by the same type, until it is removed.
    `remove`: take down what stands there instead.
    """

    board: str
    key: str
    value: Any = None
    if_version: int | None = None
    type: str = ""
    remove: bool = False


class GetNotice(Request[Notice], frozen=True, kw_only=True):
    """What stands on a board under a key. `NotFound` if nothing does."""

    board: str
    key: str


class Headlines(Reply, frozen=True):
    """What stands on a board, oldest version first. `next`: the cursor after it; `more`: there was more than `limit`."""

    notices: tuple[Headline, ...]
    next: int
    more: bool = False


class ListNotices(Request[Headlines], frozen=True, kw_only=True):
    """What stands on a board, without the values. `pattern`: a key, or a beginning and `*`. `after`: a cursor."""

    board: str
    pattern: str = "*"
    after: int = 0
    limit: int = 100


class Notices(Reply, frozen=True):
    """Notices after a cursor, oldest version first. `next`: the cursor after them."""

    notices: tuple[Notice, ...]
    next: int


class WatchBoard(Request[Notices], frozen=True, kw_only=True):
    """Notices with a version above `after`, the newest of each key; removals too. At most `limit`, and about 1 MB.

    `pattern`: a key, or a beginning and `*`: `draft/*`. `type`: only of this type. `wait_s`: seconds to wait for the first
    one; None: as long as it takes. A reader that is slow sees the newest of each key, not every version.
    """

    board: str
    pattern: str = "*"
    after: int = 0
    limit: int = 100
    type: str = ""
    wait_s: float | None = 0.0
