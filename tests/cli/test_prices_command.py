"""`aios prices`: what models cost and who says so, without a kernel."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from aios.cli.group import aios
from aios.cli.prices import dollars
from aios.drivers.price.table import shipped


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder to be in, with nothing of this machine's own configuration."""
    monkeypatch.setenv("AIOS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "etc"))
    monkeypatch.delenv("AIOS_CONFIG", raising=False)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


def prices(*arguments: str, expect: int = 0) -> Result:
    result = CliRunner().invoke(aios, ["prices", *arguments])
    assert result.exit_code == expect, result.output
    return result


def test_a_price_is_told_with_who_says_it_and_with_the_date_and_hash_of_the_table() -> None:
    told = json.loads(prices("openai/gpt-4o", "--json").stdout)
    [found] = told["prices"]
    assert (found["provider"], found["model"], found["source"], found["entry"]) == ("openai", "gpt-4o", "table", "openai/gpt-4o")
    assert found["price"]["rates"] == {"input": 2_500_000_000, "cached": 1_250_000_000, "output": 10_000_000_000}
    assert told["table"]["sha256"] == shipped().info.sha256 and told["table"]["date"] == shipped().head.date
    people = prices("openai/gpt-4o")
    assert "2.5" in people.stdout and "1.25" in people.stdout and people.stdout.rstrip().splitlines()[-1].split()[4] == "table"
    assert shipped().head.date in people.stderr and shipped().info.sha256[:16] in people.stderr


def test_without_a_model_it_lists_what_is_configured() -> None:
    [local] = json.loads(prices("--json").stdout)["prices"]
    assert (local["provider"], local["source"], local["price"]["rates"]) == ("local", "default", {"input": 0, "output": 0})
    Path("aios.toml").write_text(
        '[prices.local]\ninput = 0.02\noutput = 0.08\n[prices.models."openai/gpt-4o"]\ninput = 3\noutput = 9\n'
        '[[core]]\nname = "near"\nbase_url = "http://127.0.0.1:9/v1"\nmodels = ["one", "two"]\nprovider = "local"\n'
        '[[core]]\nname = "far"\nbase_url = "http://127.0.0.1:8/v1"\nmodels = ["gpt-4o", "gpt-4oo"]\nprovider = "openai"\n'
        '[[core]]\nname = "own"\nbase_url = "http://127.0.0.1:7/v1"\nmodels = ["x"]\nprice = {input = 10, output = 20}\n'
        '[[core]]\nname = "none"\nbase_url = "http://127.0.0.1:6/v1"\n'
        '[[core]]\nname = "lists"\nbase_url = "http://127.0.0.1:5/v1"\nprovider = "openai"\n'
    )
    told = json.loads(prices("--json").stdout)
    listed = told["prices"]
    assert [(one["provider"], one["model"], one["source"]) for one in listed] == [
        ("local", "one", "operator"),
        ("local", "two", "operator"),
        ("openai", "gpt-4o", "operator"),
        ("", "x", "operator"),
    ], "each once, though the file says it and a core has it"
    assert told["unknown"] == ["`gpt-4oo` on `far`", "`any model` on `none`"]
    assert listed[3]["price"]["rates"] == {"input": 10_000_000, "output": 20_000_000}
    said = prices().stderr
    assert "nobody knows the price of `gpt-4oo` on `far`: where money is limited it is refused, until aios.toml" in said
    assert 'says it in `[prices.models."openai/gpt-4oo"]`\n' in said and "says `price` or `provider` of `none`\n" in said
    assert "`lists`" not in said, "what it lists has prices"
    assert listed[0]["price"]["rates"] == {"input": 20_000_000, "output": 80_000_000}
    assert "aios.toml" in prices("openai/gpt-4o").stdout and "table" in prices("openai/gpt-4o-mini").stdout


def test_a_model_is_found_at_all_who_have_it() -> None:
    lines = prices("claude-sonnet-4-5").stdout
    assert (
        "anthropic/claude-sonnet-4-5" in lines and "above 200,000 tokens 6 / 22.5" in lines and "web searches 0.01 each" in lines
    )


def test_an_unknown_price_is_said_to_be_unknown_and_what_to_do() -> None:
    said = prices("openai/gpt-4oo", expect=4).stderr
    assert (
        "nobody knows the price of `openai/gpt-4oo`" in said
        and "did you mean `openai/gpt-4o" in said
        and "[prices.models." in said
    )
    assert prices("nobody/\x1b[2J", "--json", expect=4).stdout == ""


def test_what_is_wrong_in_the_file_ends_it_with_the_fields_name() -> None:
    Path("aios.toml").write_text('[prices.models."a/b"]\ninput = nan\noutput = 1\n')
    assert '`prices.models."a/b".input` must be 0 to 10000, in dollars' in prices(expect=2).stderr


@pytest.mark.parametrize(
    ("nano", "said"), [(0, "0"), (1, "0.000000001"), (2_800_000, "0.0028"), (10**10, "10"), (10**13, "10000")]
)
def test_dollars_are_exact(nano: int, said: str) -> None:
    assert dollars(nano) == said
