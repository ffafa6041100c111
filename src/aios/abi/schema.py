"""The table as others read it: JSON schemas for programs, reference pages for people."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import msgspec

from aios.abi.errors import ERRORS, AiosError
from aios.abi.record import ABI_VERSION
from aios.abi.table import ALIASES, TABLE, Row
from aios.abi.waits import WAITS

_REFERENCE = "#/components/{name}"


@lru_cache(maxsize=1)
def schemas() -> dict[str, Any]:
    """`calls`: name → what it needs and does, and the schemas of its request and reply; `components`: what these refer to."""
    types = [kind for row in TABLE for kind in (row.request, row.reply)]
    shapes, components = msgspec.json.schema_components(types, ref_template=_REFERENCE)
    calls = {
        row.name: {**_facts(row), "request": request, "reply": reply}
        for row, request, reply in zip(TABLE, shapes[::2], shapes[1::2], strict=True)
    }
    return {"abi": ABI_VERSION, "calls": calls, "aliases": ALIASES, "components": components, "errors": _errors()}


def _facts(row: Row) -> dict[str, Any]:
    facts = msgspec.structs.asdict(row)
    return {name: facts[name] for name in ("sentence", "needs", "lane", "repeat", "risk", "wait", "deadline_s", "version")} | {
        "streams": row.streams
    }


def _errors() -> dict[str, Any]:
    return {
        name: {"sentence": _sentence(error), "http": error.http, "retry": error.retry, "way_out": error.way_out}
        for name, error in ERRORS.items()
    }


def reference() -> dict[str, str]:
    """The reference pages: name of the page → its Markdown."""
    return {"calls": _calls_page(), "errors": _errors_page(), "waits": _waits_page()}


def _calls_page() -> str:
    lines = ["# System calls", "", "Printed from the table in `aios.abi.table`.", ""]
    lines += _table(("call", "does"), [(f"[`{row.name}`](#{row.name.replace('.', '')})", row.sentence) for row in TABLE])
    for row in TABLE:
        lines += ["", f"## {row.name}", "", row.sentence, "", *_description(row.request)]
        lines += _table(
            ("needs", "lane", "after a crash", "risk", "waits", "deadline"),
            [(f"`{row.needs}`" if row.needs else "–", row.lane or "–", row.repeat, row.risk, row.wait, _seconds(row.deadline_s))],
        )
        for title, kind in (("Request", row.request), ("Reply", row.reply)):
            lines += ["", f"**{title}** `{kind.__name__}`", "", *_fields(kind)]
    if ALIASES:
        lines += ["", "## Classic names", "", *_table(("name", "call"), [(f"`{a}`", f"`{b}`") for a, b in ALIASES.items()])]
    return "\n".join(lines) + "\n"


def _errors_page() -> str:
    rows = [
        (f"`{name}`", _sentence(error), str(error.http), str(error.exit_code), "yes" if error.retry else "no", error.way_out)
        for name, error in ERRORS.items()
    ]
    return "\n".join(["# Errors", "", *_table(("code", "means", "HTTP", "exit code", "retry", "way out"), rows)]) + "\n"


def _waits_page() -> str:
    rows = [(f"`{kind.code}`", kind.word, kind.meaning) for kind in WAITS.values()]
    return "\n".join(["# Waits", "", *_table(("code", "word", "waits for"), rows)]) + "\n"


def _description(kind: type[Any]) -> list[str]:
    return [*inspect.cleandoc(kind.__doc__ or "").splitlines(), ""]


def _fields(kind: type[Any]) -> list[str]:
    fields = msgspec.structs.fields(kind)
    if not fields:
        return ["No fields."]
    return _table(("field", "type", "default"), [(f"`{f.name}`", f"`{_type(f.type)}`", _default(f)) for f in fields])


def _type(kind: Any) -> str:
    text = kind.__name__ if isinstance(kind, type) and not hasattr(kind, "__args__") else str(kind)
    text = re.sub(r"typing\.|aios\.abi\.\w+\.", "", text)
    return text.replace("|", "\\|")


def _default(field: msgspec.structs.FieldInfo) -> str:
    if field.required:
        return "required"
    value = field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
    return f"`{value!r}`"


def _seconds(value: float | None) -> str:
    return "none" if value is None else f"{value:g} s"


def _sentence(error: type[AiosError]) -> str:
    return inspect.cleandoc(error.__doc__ or "").splitlines()[0]


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    return ["| " + " | ".join(head) + " |", "|" + "---|" * len(head), *("| " + " | ".join(row) + " |" for row in rows)]
