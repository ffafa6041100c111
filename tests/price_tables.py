"""Tables of prices as the maintainers' tool writes them, for tests that must not change with the prices of the world."""

import hashlib
import json


def written(*entries: dict[str, object], **stand_in: list[str]) -> bytes:
    """A table with these entries. `stand_in`: whose models a provider sells."""
    lines = "".join(json.dumps(entry) + "\n" for entry in entries).encode()
    digest = hashlib.sha256(lines).hexdigest()
    head = {
        "date": "2026-11-01",
        "made_from": "a test",
        "wheel_sha256": "",
        "licence": "",
        "sha256": digest,
        "stand_in": stand_in,
    }
    return json.dumps(head).encode() + b"\n" + lines


def entry(model: str, *match: object, provider: str = "acme", dollars: int = 1, **more: object) -> dict[str, object]:
    """A model whose tokens cost so many dollars per million."""
    return {"provider": provider, "model": model, "match": match or [f"={model}"], "price": price(dollars), **more}


def price(dollars: float, output: float | None = None, **more: object) -> dict[str, object]:
    """Dollars per million tokens of input and output; other rates as `more` has them, in nano-dollars."""
    given = {"input": round(dollars * 10**9), "output": round((dollars if output is None else output) * 10**9)}
    beside = {name: value for name, value in more.items() if not isinstance(value, int)}
    return {"rates": given | {name: value for name, value in more.items() if isinstance(value, int)}, **beside}
