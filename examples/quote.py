"""A typed answer, on the way to which the model has a Python function run: `python examples/quote.py`.

The form is always kept; whether what stands in it is right depends on the model.
"""

from typing import Annotated, Literal

import msgspec

import aios

RATES = {"EUR": 1.0, "USD": 1.16, "GBP": 0.87, "JPY": 178.0}
Currency = Literal["EUR", "USD", "GBP", "JPY"]
Amount = Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]


class Quote(msgspec.Struct):
    amount: Amount
    currency: Currency


@aios.tool(repeat="repeatable", risk="read")
def convert(amount: Amount, base: Currency, to: Currency) -> str:
    """Changes an amount of money from one currency to another."""
    print(f"the model asks for {amount} {base} in {to}")
    return f"{amount} {base} are {amount * RATES[to] / RATES[base]:.0f} {to}"


@aios.agent(tools=[convert])
async def quote(k: aios.Kernel, text: str) -> Quote:
    return await k.ask(text, out=Quote, tool_choice="required", max_steps=2, max_tokens=80, temperature=0)


if __name__ == "__main__":
    print(aios.run(quote, "I have 250 EUR. How many USD is that?"))
