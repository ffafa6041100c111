"""The port `Prices`: what models cost."""

from __future__ import annotations

from typing import Protocol

from aios.abi.price import FREE, ModelPrice

LOCAL = "local"
"""The provider of what is made on this machine."""


class Prices(Protocol):
    """What models cost, by provider and model. Never blocks: a core's price is asked for when it is added."""

    def price(self, provider: str, model: str) -> ModelPrice | None:
        """The price that holds now; None if nobody knows it, which is not the same as a price of nothing."""
        ...


class OwnPrices:
    """Of what is made on this machine, which costs nothing: nobody knows another price."""

    def price(self, provider: str, model: str) -> ModelPrice | None:
        return ModelPrice(provider, model, "default", LOCAL, FREE) if provider == LOCAL else None
