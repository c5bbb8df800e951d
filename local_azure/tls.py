"""The certificate of the services, made for the loopback addresses, and the file by which clients trust it."""

from __future__ import annotations

import hashlib
import ipaddress
import os
import ssl
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from local_azure.batch.state.paths import write_private
from local_azure.loopback import ADDING, REPLACING, SPLITS, TRUST

if TYPE_CHECKING:
    from cryptography import x509

_LASTS = timedelta(days=365)
_LEFT = timedelta(days=30)  # when it is made anew
_NAMES = ("localhost", "localazure.blob.core.localhost")  # the latter for clients that address accounts by host
_ADDRESSES = ("127.0.0.1", "::1")
_BEGIN = "-----BEGIN CERTIFICATE-----"


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """The files of a certificate. `bundle` has it after the certificates that this machine trusts anyway."""

    certificate: Path
    key: Path
    bundle: Path

    def advice(self) -> str:
        """How clients trust it."""
        return (
            f"local Azure: its certificate is {self.certificate}. Programs trust it by {', '.join(TRUST)}, which are "
            "among the settings; others, such as Java's, need it in their own store"
        )

    def bundle_for_shells(self) -> Path:
        """The bundle, or a link to it where a shell would split its path in `export $(cat local.env)`."""
        if not SPLITS.search(str(self.bundle)):
            return self.bundle
        temporary = tempfile.gettempdir()
        folder = "/tmp" if SPLITS.search(temporary) else temporary
        digest = hashlib.sha256(os.fsencode(self.bundle)).hexdigest()[:16]
        link = Path(folder, f"local-azure-trusted-{digest}.pem")
        if not (link.is_symlink() and link.lstat().st_uid == os.getuid()):  # of an earlier start, so to the same file
            link.symlink_to(self.bundle)
        return link

    def server_context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, self.key)
        return context


def certificate_of(data: Path, environment: Mapping[str, str]) -> Certificate:
    """The certificate of a data directory, made if there is none or it ends soon; all files are their owner's only."""
    found = Certificate(certificate=data / "tls.pem", key=data / "tls.key", bundle=data / "trusted.pem")
    if not _is_good(found):
        key, certificate = _make(datetime.now(timezone.utc))
        write_private(found.key, key)
        write_private(found.certificate, certificate)
    bundle = f"{_trusted_anyway(environment, found.bundle)}\n{found.certificate.read_text()}"
    if not found.bundle.exists() or found.bundle.read_text() != bundle:
        write_private(found.bundle, bundle)
    return found


def _is_good(found: Certificate) -> bool:
    from cryptography import x509

    try:
        certificate = x509.load_pem_x509_certificate(found.certificate.read_bytes())
        found.server_context()  # that the key is its own
    except (OSError, ValueError):
        return False
    return certificate.not_valid_after_utc - datetime.now(timezone.utc) > _LEFT


def _make(now: datetime) -> tuple[str, str]:
    """A key and its certificate, in PEM.

    It signs itself and is no authority: a client that trusts it trusts this key alone, for these names alone.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "local Azure")])
    builder = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + _LASTS)
        .add_extension(x509.SubjectAlternativeName(_subjects()), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    )
    certificate = builder.sign(key, hashes.SHA256())
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return private.decode(), certificate.public_bytes(pem).decode()


def _subjects() -> list[x509.GeneralName]:
    from cryptography import x509

    addresses = [x509.IPAddress(ipaddress.ip_address(address)) for address in _ADDRESSES]
    return [*addresses, *(x509.DNSName(name) for name in _NAMES)]


def _trusted_anyway(environment: Mapping[str, str], ours: Path) -> str:
    """The certificates that clients on this machine trust already, since the settings replace what they read."""
    given = [text for name in REPLACING if (text := _certificates(environment.get(name, ""), ours))]
    added = _certificates(environment.get(ADDING, ""), ours)
    if not given:
        defaults = [ssl.get_default_verify_paths().openssl_cafile or "", _certifi()]
        given = [text for path in defaults if (text := _certificates(path, ours))][:1]
    return "\n".join(dict.fromkeys([*given, *([added] if added else [])]))


def _certificates(path: str, ours: Path) -> str:
    """What is in the file, without the certificate of ours at its end: it is set in the shell of an earlier start."""
    if not os.path.isfile(path):
        return ""
    text = Path(path).read_text(errors="replace")
    return (text.rpartition(_BEGIN)[0] if Path(path).resolve() == ours.resolve() else text).strip()


def _certifi() -> str:
    import certifi  # a dependency of requests

    return certifi.where()
