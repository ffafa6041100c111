"""Certificates of an authority of our own, made by `openssl` for one test run."""

import ssl
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

EC = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


@dataclass(frozen=True)
class Authority:
    """`certificate`: its file, which those who trust it name."""

    folder: Path

    @property
    def certificate(self) -> Path:
        return self.folder / "ca.pem"

    def server(self, *names: str) -> ssl.SSLContext:
        """What a server of these names (`IP:127.0.0.1`, `DNS:localhost`) shows."""
        stem = self.folder / "-".join(names).replace(":", "_").replace("*", "any")
        key, asked, made = stem.with_suffix(".key"), stem.with_suffix(".csr"), stem.with_suffix(".pem")
        openssl("req", *EC, "-keyout", key, "-out", asked, "-subj", "/CN=a server")
        extensions = stem.with_suffix(".ext")
        extensions.write_text(f"subjectAltName={','.join(names)}\nauthorityKeyIdentifier=keyid\n")
        ca = ("-CA", self.certificate, "-CAkey", self.folder / "ca.key", "-CAcreateserial")
        openssl("x509", "-req", "-in", asked, *ca, "-days", "2", "-extfile", extensions, "-out", made)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(made, key)
        return context


def authority(folder: Path) -> Authority:
    """An authority that nobody trusts by itself."""
    folder.mkdir(exist_ok=True)
    usage = ("-addext", "keyUsage=critical,keyCertSign,cRLSign")
    openssl(
        "req", "-x509", *EC, "-keyout", folder / "ca.key", "-out", folder / "ca.pem", "-days", "2", "-subj", "/CN=ours", *usage
    )
    return Authority(folder)


def openssl(*arguments: str | Path) -> None:
    words: Sequence[str | Path] = ("openssl", *arguments)
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
