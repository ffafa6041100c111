"""Model servers on this machine: listed for people, never used without their word."""

from __future__ import annotations

import http.client
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import msgspec

TIMEOUT_S = 0.3
MAX_BYTES = 1 << 20
PORTS = {
    11434: ("Ollama", "ollama"),
    1234: ("LM Studio", "lmstudio"),
    8000: ("vLLM", "vllm"),
    8080: ("llama-server", "llama-server"),
}
"""What usually listens where."""


@dataclass(frozen=True, slots=True)
class Detected:
    """A server that speaks OpenAI's chat protocol on this machine, and its models."""

    product: str
    name: str
    url: str
    models: tuple[str, ...]


class _Model(msgspec.Struct):
    id: str


class _Models(msgspec.Struct):
    data: list[_Model]


def servers(ports: Mapping[int, tuple[str, str]] = PORTS) -> list[Detected]:
    """The servers that list their models on the usual ports within 300 ms."""
    with ThreadPoolExecutor(len(ports)) as pool:
        found = pool.map(probe, ports, *zip(*ports.values(), strict=True))
    return [server for server in found if server]


def probe(port: int, product: str, name: str) -> Detected | None:
    """What answers at a port, if it is such a server."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", "/v1/models")
        answer = connection.getresponse()
        models = msgspec.json.decode(answer.read(MAX_BYTES), type=_Models).data if answer.status == 200 else None
    except (OSError, http.client.HTTPException, msgspec.DecodeError):
        return None
    finally:
        connection.close()
    if models is None:
        return None
    return Detected(product, name, f"http://127.0.0.1:{port}/v1", tuple(model.id for model in models))
