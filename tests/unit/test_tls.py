"""The certificate of the services: for whom it is, who may read its key, and when it is made anew."""

from __future__ import annotations

import stat
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from cryptography import x509

from local_azure import tls
from local_azure.tls import Certificate, certificate_of


def loaded(found: Certificate) -> x509.Certificate:
    return x509.load_pem_x509_certificate(found.certificate.read_bytes())


def test_certificate_is_for_loopback_alone_and_its_key_is_private(tmp_path: Path) -> None:
    found = certificate_of(tmp_path, {})
    names = loaded(found).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(name) for name in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1", "::1"]
    assert names.get_values_for_type(x509.DNSName) == ["localhost"]
    assert not loaded(found).extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert {stat.S_IMODE(path.stat().st_mode) for path in (found.key, found.certificate, found.bundle)} == {0o600}


def test_certificate_is_kept_with_the_data(tmp_path: Path) -> None:
    first = certificate_of(tmp_path, {}).certificate.read_text()
    assert certificate_of(tmp_path, {}).certificate.read_text() == first


@pytest.mark.parametrize("broken", ["key", "certificate", "age"])
def test_certificate_that_cannot_serve_is_made_anew(tmp_path: Path, broken: str) -> None:
    found = certificate_of(tmp_path, {})
    if broken == "age":
        key, old = tls._make(datetime.now(timezone.utc) - timedelta(days=340))
        found.key.write_text(key)
        found.certificate.write_text(old)
    else:
        getattr(found, broken).write_text("no PEM")
    certificate_of(tmp_path, {})
    assert loaded(found).not_valid_after_utc - datetime.now(timezone.utc) > timedelta(days=360)
    found.server_context()


@pytest.mark.parametrize("name", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"])
def test_clients_go_on_trusting_what_they_trusted(tmp_path: Path, name: str) -> None:
    given = tmp_path / "given.pem"
    given.write_text("the certificates of a company\n")
    found = certificate_of(tmp_path, {name: str(given)})
    assert found.bundle.read_text() == given.read_text() + found.certificate.read_text()


def test_a_restart_adds_the_certificate_once(tmp_path: Path) -> None:
    found = certificate_of(tmp_path, {})
    first = found.bundle.read_text()
    assert first.count("BEGIN CERTIFICATE") > 50  # of the machine, or of certifi
    certificate_of(tmp_path, {"SSL_CERT_FILE": str(found.bundle)})  # set in the shell from before
    assert found.bundle.read_text() == first
