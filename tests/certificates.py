"""Certificates of an authority of our own, made for one test run."""

import ssl
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import trustme


@dataclass(frozen=True)
class Authority:
    """`certificate`: its file, which those who trust it name."""

    certificate: Path
    ca: trustme.CA

    def server(self, *names: str, until: datetime | None = None) -> ssl.SSLContext:
        """What a server of these names (`127.0.0.1`, `localhost`, `*.example.com`) shows; it is good until then."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.ca.issue_cert(*names, not_after=until).configure_cert(context)
        return context


def authority(folder: Path) -> Authority:
    """An authority that nobody trusts by itself."""
    folder.mkdir(exist_ok=True)
    ca, file = trustme.CA(), folder / "ca.pem"
    ca.cert_pem.write_to_path(str(file))
    return Authority(file, ca)
