"""Providers whose models are asked over the OpenAI chat wire: where they are, whose key they want, and how they differ.

None of this was tried against the providers themselves: it is what they and those who use them write.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from aios.abi.errors import Invalid
from aios.drivers.core.openai_chat import FEATURES, WINDOW, OpenAIChatConfig
from aios.ports.core import Feature, Price
from aios.ports.prices import LOCAL

FAR_WINDOW = 128_000
"""Of models elsewhere, or behind a gateway on this machine that are paid for, where nobody says it: that much is reserved for an
answer to a call that names no most of its own."""


@dataclass(frozen=True, slots=True)
class Provider:
    """`name`: as in the table of prices. `variable`: what usually holds its key. `window`: of most of its models."""

    name: str
    product: str
    variable: str
    base_url: str
    can: frozenset[Feature]
    window: int = FAR_WINDOW


COMMON: frozenset[Feature] = frozenset({"chat", "stop", "tools", "json"})
MORE: frozenset[Feature] = COMMON | {"seed", "penalties", "vision", "reasoning_effort"}
ALL: frozenset[Feature] = MORE | {"n", "logprobs", "logit_bias"}

PROVIDERS = (
    Provider("openai", "OpenAI", "OPENAI_API_KEY", "https://api.openai.com/v1", ALL),
    Provider("openrouter", "OpenRouter", "OPENROUTER_API_KEY", "https://openrouter.ai/api/v1", ALL),
    Provider("groq", "Groq", "GROQ_API_KEY", "https://api.groq.com/openai/v1", MORE),
    Provider("mistral", "Mistral", "MISTRAL_API_KEY", "https://api.mistral.ai/v1", COMMON | {"vision"}),
    Provider("deepseek", "DeepSeek", "DEEPSEEK_API_KEY", "https://api.deepseek.com/v1", COMMON | {"penalties"}),
    Provider("together", "Together", "TOGETHER_API_KEY", "https://api.together.xyz/v1", MORE),
    Provider("x-ai", "xAI", "XAI_API_KEY", "https://api.x.ai/v1", MORE),
    Provider("fireworks", "Fireworks", "FIREWORKS_API_KEY", "https://api.fireworks.ai/inference/v1", MORE),
    Provider("cerebras", "Cerebras", "CEREBRAS_API_KEY", "https://api.cerebras.ai/v1", COMMON | {"seed"}),
)
BY_NAME = {provider.name: provider for provider in PROVIDERS}
BY_VARIABLE = {provider.variable: provider for provider in PROVIDERS}
BY_ORIGIN = {"/".join(provider.base_url.split("/")[:3]): provider for provider in PROVIDERS}
"""By `https://HOST`."""

COMING = {
    "ANTHROPIC_API_KEY": "Anthropic",
    "AZURE_OPENAI_API_KEY": "Azure",
    "COHERE_API_KEY": "Cohere",
    "GEMINI_API_KEY": "Gemini",
    "GOOGLE_API_KEY": "Gemini",
}
"""Variables that hold keys of providers whose wires are not spoken yet."""


def completed(config: OpenAIChatConfig) -> OpenAIChatConfig:
    """An endpoint with what its provider is known for, where nothing else is said. Raises `Invalid` without address or name."""
    provider = BY_NAME.get(config.provider)
    if provider is None:
        if not config.base_url:
            some = ", ".join(f"`{name}`" for name in BY_NAME)
            coming = config.provider.lower() in ("google", *map(str.lower, COMING.values()))
            said = f"the wire of `{config.provider}` is not spoken yet, it is coming: " if coming else ""
            raise Invalid(f"{said}a core needs its address, `base_url`, or a `provider` of {some}", field="base_url")
        if not config.name:
            raise Invalid(f"the core at {config.base_url} needs a `name`", field="name")
        paid = config.needs_limit or config.provider not in ("", LOCAL) or config.price not in (None, Price())
        return dataclasses.replace(config, window=FAR_WINDOW) if paid and config.window == WINDOW else config
    ours = not config.base_url or config.base_url.rstrip("/") == provider.base_url
    return dataclasses.replace(
        config,
        name=config.name or provider.name,
        base_url=config.base_url or provider.base_url,
        key_env=config.key_env or (provider.variable if ours else ""),
        window=provider.window if config.window == WINDOW else config.window,
        features=provider.can if config.features == FEATURES else config.features,
    )


def core_of(provider: Provider) -> OpenAIChatConfig:
    """The core of a provider whose key is there, and of which the configuration says nothing."""
    return completed(OpenAIChatConfig(provider=provider.name))
