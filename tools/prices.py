"""Makes the table of prices anew, from the package `genai-prices` (maintainers, before each release).

`python3 tools/prices.py [VERSION]` downloads the wheel, the newest or a version, and reads the prices out of its source text;
nothing of it is run or installed. Whatever bills what a usage frame cannot tell (citations, seconds, letters) is left out, and so
is a price that is not a sane number: an unknown price is refused where money is limited, a wrong one is not noticed. Where the
hour decides the price, it is the dearest hour's. What has changed is printed: read it before you commit it.
"""

import ast
import hashlib
import json
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import ROUND_CEILING, Decimal
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "src/aios/drivers/price"
PACKAGE = "genai-prices"
NANO, MOST_DOLLARS = 10**9, 10_000
RATES = {
    "input": ("input_mtok", "input_text_mtok"),
    "cached": ("cache_read_mtok", "cache_text_read_mtok"),
    "cache_write": ("cache_write_mtok", "cache_write_5m_mtok", "cache_text_write_mtok", "cache_text_write_5m_mtok"),
    "cache_write_long": ("cache_write_1h_mtok", "cache_text_write_1h_mtok"),
    "media": ("input_audio_mtok", "input_image_mtok", "input_video_mtok"),
    "output": ("output_mtok", "output_text_mtok", "output_audio_mtok", "output_image_mtok", "output_video_mtok"),
    "reasoning": ("output_reasoning_mtok", "output_text_reasoning_mtok"),
}
LIKE = {"cached": "input", "cache_write": "input", "cache_write_long": "input", "media": "input", "reasoning": "output"}
FEES = {f"{name}_kcount": name for name in ("web_searches", "social_searches", "storage_searches", "code_executions")}
COVERED = {"requests_kcount", *FEES, *(key for keys in RATES.values() for key in keys)}
# Of what is read in a cache only the text's rate is told; a call with media is charged in full.
COVERED |= {f"cache_{kind}_read_mtok" for kind in ("audio", "image", "video")}
SEARCHES = re.compile(r"(^|[^a-z])(search|sonar|online|deep-research)([^a-z]|$)", re.IGNORECASE)
MAKES = re.compile(r"(^|[^a-z])(audio|image|omni|realtime|tts|voice|speech)([^a-z]|$)", re.IGNORECASE)
# What the data is made of. What is not named here is not skipped but stops us: it may be a new way to bill.
FIELDS: dict[str, set[str] | None] = {
    "Provider": {"id", "name", "api_pattern", "pricing_urls", "description", "price_comments", "model_match", "provider_match",
                 "extractors", "fallback_model_providers", "models"},
    "ModelInfo": {"id", "match", "name", "description", "context_window", "price_comments", "deprecated", "prices",
                  "price_variants"},
    "ModelPrice": None,  # looked at by `price_of`
    "TieredPrices": {"base", "tiers"},
    "Tier": {"start", "price"},
    "ConditionalPrice": {"constraint", "prices"},
    "PriceVariant": {"when", "prices", "constraint"},
    "StartDateConstraint": {"start_date"},
    "TimeOfDateConstraint": {"start_time", "end_time"},
    **{f"Clause{name.title().replace('_', '')}": {name} for name in ("equals", "starts_with", "ends_with", "contains", "regex")},
    "ClauseOr": {"or_"},
    "ClauseAnd": {"and_"},
    **dict.fromkeys(("UsageExtractor", "UsageExtractorMapping", "ArrayMatch", "time")),
}  # fmt: skip


class Unfit(ValueError):
    """A price that has no place in the table, and why."""


@dataclass
class Made:
    """What became of a constructor call in the source: its name and arguments."""

    kind: str
    values: dict[str, Any] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Any:
        return self.values.get(name)


def main(arguments: list[str]) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        wheel = download(arguments[0] if arguments else None, Path(scratch))
        version = wheel.name.split("-")[1]
        digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
        with zipfile.ZipFile(wheel) as archive:
            source = archive.read("genai_prices/data.py").decode()
            licence = next(name for name in archive.namelist() if name.endswith("licenses/LICENSE"))
            (FOLDER / "LICENSE-genai-prices").write_bytes(archive.read(licence))
    today = datetime.now(UTC).date()
    providers = [provider for provider in providers_in(source) if provider["models"]]
    lines, left_out = [], []
    for provider in providers:
        for model in provider["models"]:
            try:
                lines.append(entry_of(provider["id"], model, today))
            except Unfit as why:
                left_out.append(f"{provider['id']}/{model['id']}: {why}")
    table = FOLDER / "table.jsonl"
    before = {entry["provider"] + "/" + entry["model"]: entry for entry in read(table)}
    write(table, lines, providers, f"{PACKAGE} {version}", digest, today)
    report(before, read(table), left_out)


def download(version: str | None, where: Path) -> Path:
    wanted = f"{PACKAGE}=={version}" if version else PACKAGE
    pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary", ":all:", "-d", str(where), wanted]
    done = subprocess.run(pip, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(pip)}\n{done.stderr[-2000:]}")
    return next(where.glob("*.whl"))


def providers_in(source: str) -> list[Any]:
    """The value of `providers` in the source text, without running any of it."""
    for node in ast.parse(source).body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == "providers":
            assert node.value is not None
            found: list[Any] = value_of(node.value)
            return found
    return sys.exit("there is no `providers` in the package's data: its form has changed")


def value_of(node: ast.expr) -> Any:
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.List | ast.Tuple):
        return [value_of(item) for item in node.elts]
    if isinstance(node, ast.Dict):
        return {value_of(key): value_of(value) for key, value in zip(node.keys, node.values, strict=True) if key is not None}
    if isinstance(node, ast.Attribute):  # datetime.timezone.utc
        return node.attr
    if isinstance(node, ast.Call):
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        given = [value_of(argument) for argument in node.args]
        if name == "Decimal":
            return Decimal(given[0])
        if name == "date":
            return date(*given)
        words = {str(word.arg) for word in node.keywords}
        if name in FIELDS and (FIELDS[name] is None or words <= (FIELDS[name] or set())):
            return Made(name, {str(word.arg): value_of(word.value) for word in node.keywords})
    return sys.exit(f"the package's data holds what is not understood: {ast.unparse(node)[:200]}")


def entry_of(provider: str, model: Made, today: date) -> dict[str, Any]:
    """A line of the table. Raises `Unfit`."""
    now, later = prices_of(model, today)
    refuse_half_told(model["id"], now)
    entry = {"provider": provider, "model": model["id"], "match": match_of(model["match"]), "price": price_of(now)}
    variants = variants_of(model, entry["price"], now)
    if variants:
        entry["price"]["variants"] = variants
    if later:
        entry["later"] = [{"since": day.isoformat(), "price": price_of(prices)} for day, prices in later]
    return entry


def refuse_half_told(name: str, prices: list[Made]) -> None:
    """Raises `Unfit` for a model whose name says that it does what its price says nothing of."""
    told = {key for made in prices for key, value in made.values.items() if value is not None}
    if SEARCHES.search(name):
        raise Unfit("it searches by itself, and what that comes to no usage tells")
    if MAKES.search(name) and not any(kind in key for key in told for kind in ("audio", "image", "video")):
        raise Unfit("it makes sounds or pictures, and its price is that of texts")


def prices_of(model: Made, today: date) -> tuple[list[Made], list[tuple[date, list[Made]]]]:
    """The prices of which one holds now, by the hour, and those of later days."""
    if not isinstance(model["prices"], list):
        return [model["prices"]], []
    hourly = [
        each["prices"] for each in model["prices"] if each["constraint"] and each["constraint"].kind == "TimeOfDateConstraint"
    ]
    now, later = [model["prices"][0]["prices"]], []
    for each in model["prices"]:
        if each["constraint"] is None:
            now = [each["prices"]]
        elif each["constraint"].kind == "StartDateConstraint":
            day = each["constraint"]["start_date"]
            if day <= today:
                now = [each["prices"]]
            else:
                later.append((day, [each["prices"], *hourly]))
        elif each["constraint"].kind != "TimeOfDateConstraint":
            raise Unfit(f"it depends on a {each['constraint'].kind}")
    return [*now, *hourly], sorted(later, key=lambda since: since[0])


def variants_of(model: Made, standard: dict[str, Any], now: list[Made]) -> dict[str, Any]:
    """The prices of those who ask for more: only what is dearer, because it is not known beforehand what is granted."""
    variants: dict[str, Any] = {}
    for variant in model["price_variants"] or ():
        if len(variant["when"]) != 1:
            raise Unfit(f"a variant depends on several things: {variant['when']}")
        ((key, value),) = variant["when"].items()
        kept = [Made("ModelPrice", {**prices.values, **variant["prices"].values}) for prices in now]
        price = price_of(kept)
        if dearer(price, standard):
            variants[f"{key}={value}"] = price
    return variants


def dearer(price: dict[str, Any], than: dict[str, Any]) -> bool:
    """Whether anything in a price is above what it is in another."""
    places = sorted({0, *(tier["above"] + 1 for tier in (*price.get("tiers", ()), *than.get("tiers", ())))})
    return any(rate > rates_at(than, tokens)[name] for tokens in places for name, rate in rates_at(price, tokens).items())


def rates_at(price: dict[str, Any], tokens: int) -> dict[str, int]:
    tiers = [tier["rates"] for tier in price.get("tiers", ()) if tokens > tier["above"]]
    rates = tiers[-1] if tiers else price["rates"]
    return {name: rates.get(name, rates.get(LIKE.get(name, name), 0)) for name in RATES}


def price_of(prices: list[Made]) -> dict[str, Any]:
    """A price as the table has it: of several the dearest, rate by rate. Raises `Unfit`."""
    for made in prices:
        unknown = {key for key, value in made.values.items() if value is not None} - COVERED
        if unknown:
            raise Unfit(f"it bills {', '.join(sorted(unknown))}")
    starts = sorted({tier["start"] for made in prices for value in made.values.values() for tier in tiers_of(value)})
    price: dict[str, Any] = {"rates": rates_of(prices, 0)}
    fee = max((amount(made["requests_kcount"] or Decimal(0), 1000) for made in prices), default=0)
    if fee:
        price["request"] = fee
    if starts:
        price["tiers"] = [{"above": start, "rates": rates_of(prices, start + 1)} for start in starts]
    fees = {name: max(amount(base_of(made[key]), 1000) for made in prices if made[key] is not None)
            for key, name in FEES.items() if any(made[key] is not None for made in prices)}  # fmt: skip
    if fees:
        price["fees"] = fees
    return price


def tiers_of(value: Any) -> list[Made]:
    return list(value["tiers"]) if isinstance(value, Made) else []


def base_of(value: Any) -> Decimal:
    base: Decimal = value["base"] if isinstance(value, Made) else value
    return base


def rates_of(prices: list[Made], tokens: int) -> dict[str, int]:
    """Nano-dollars per million tokens for a question of so many tokens; what is as the rate that it stands in for is left out."""
    rates: dict[str, int] = {}
    for name, keys in RATES.items():
        found = [amount(at(made[key], tokens), 1) for made in prices for key in keys if made[key] is not None]
        if found:
            rates[name] = max(found)
    if "input" not in rates or "output" not in rates:
        raise Unfit("it has no rate for its input or for its output")
    for name, like in LIKE.items():
        if name in rates and any(all(made[key] is None for key in RATES[name]) for made in prices):
            rates[name] = max(rates[name], rates[like])
    return {name: rate for name, rate in rates.items() if rate != rates.get(LIKE.get(name, ""))}


def at(value: Any, tokens: int) -> Decimal:
    price = base_of(value)
    for tier in sorted(tiers_of(value), key=lambda tier: int(tier["start"])):
        if tokens > tier["start"]:
            price = tier["price"]
    return price


def amount(dollars: Decimal, per: int) -> int:
    """Whole nano-dollars of each, rounded up, of dollars for so many. Raises `Unfit`."""
    if not dollars.is_finite() or not 0 <= dollars <= MOST_DOLLARS:
        raise Unfit(f"{dollars} is no price")
    return int((dollars * NANO / per).to_integral_value(ROUND_CEILING))


def match_of(clause: Made) -> list[Any]:
    """A pattern as the table has it: one of these must hold, or all of a list in it. Raises `Unfit`."""
    if clause.kind == "ClauseOr":
        return [test for inner in clause["or_"] for test in match_of(inner)]
    if clause.kind == "ClauseAnd":
        tests = [match_of(inner) for inner in clause["and_"]]
        if any(len(alternatives) != 1 or not isinstance(alternatives[0], str) for alternatives in tests):
            raise Unfit("its pattern is an and of ors")
        return [[alternatives[0] for alternatives in tests]]
    kinds = {"equals": "=", "starts_with": "^", "ends_with": "$", "contains": "*", "regex": "~"}
    ((name, text),) = clause.values.items()
    return [kinds[name] + (text if name == "regex" else text.lower())]


def write(table: Path, entries: list[dict[str, Any]], providers: list[Made], made_from: str, wheel: str, today: date) -> None:
    lines = "".join(compact(entry) + "\n" for entry in entries)
    head = {
        "date": today.isoformat(),
        "made_from": made_from,
        "wheel_sha256": wheel,
        "licence": "MIT, see LICENSE-genai-prices",
        "sha256": hashlib.sha256(lines.encode()).hexdigest(),
        "stand_in": {provider["id"]: others for provider in providers if (others := provider["fallback_model_providers"])},
    }
    table.write_text(compact(head) + "\n" + lines)


def compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def read(table: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in table.read_text().splitlines()[1:]] if table.exists() else []


def report(before: dict[str, Any], entries: Iterable[dict[str, Any]], left_out: list[str]) -> None:
    after = {entry["provider"] + "/" + entry["model"]: entry for entry in entries}
    for line in changes(before, after):
        print(line)
    for line in left_out:
        print(f"left out  {line}")
    print(f"{len(after)} entries, {len(left_out)} left out")


def changes(before: dict[str, Any], after: dict[str, Any]) -> Iterator[str]:
    for name in sorted(before.keys() | after.keys()):
        old, new = before.get(name), after.get(name)
        if before and old != new:
            yield f"{'new' if old is None else 'gone' if new is None else 'changed':9} {name}"
            yield from (f"          {side} {compact(entry['price'])}" for side, entry in (("-", old), ("+", new)) if entry)


if __name__ == "__main__":
    main(sys.argv[1:])
