"""How servers elsewhere are trusted: by their certificate and their name, always."""

from __future__ import annotations

import ssl
from pathlib import Path

from aios.abi.errors import Invalid


def trusting(ca_file: Path | None) -> ssl.SSLContext:
    """What checks a server: against `ca_file` alone, or what this machine trusts (`SSL_CERT_FILE` too). Raises `Invalid`.

    Not `ssl.create_default_context`: that writes what the connection is encrypted with to a file if `SSLKEYLOGFILE` says so.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    if ca_file is None:
        context.load_default_certs()
        return context
    try:
        context.load_verify_locations(ca_file)
    except (OSError, ValueError) as problem:
        said = getattr(problem, "strerror", None) or "it holds no certificate"
        raise Invalid(f"`ca_file` {ca_file} cannot be used: {said}", field="ca_file") from None
    return context
