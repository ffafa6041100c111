"""Requests that ask the kernel to be a way to somewhere else: how they are told from others, and what is said to them."""

from __future__ import annotations

import httptools

HTTP_PORT = 80


def target_of(method: bytes, url: bytes, own: frozenset[tuple[str, int]]) -> str:
    """`HOST:PORT` that a request to a proxy wants to reach; "" for one to the kernel itself, at an address of `own`."""
    if method == b"CONNECT":
        return url.decode("latin-1")
    if not url.startswith((b"http://", b"https://", b"ws://", b"ftp://")):
        return ""
    try:
        parsed = httptools.parse_url(url)
    except httptools.HttpParserInvalidURLError:
        return url.decode("latin-1")
    host, port = (parsed.host or b"").decode("latin-1"), parsed.port or HTTP_PORT
    return "" if (host, port) in own else f"{host}:{port}"


def denial(target: str) -> bytes:
    """The answer."""
    said = f"{target[:200]} cannot be reached from here: this program has no network, and this address is the kernel alone.\n"
    body = said.encode("ascii", "backslashreplace")
    head = f"HTTP/1.1 403 Forbidden\r\ncontent-type: text/plain\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
    return head.encode() + body
