"""The certificate of the services: for whom it is, who may read its key, and when it is made anew."""

from __future__ import annotations

import stat
import subprocess
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
    assert names.get_values_for_type(x509.DNSName) == ["localhost", "localazure.blob.core.localhost"]
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


def test_all_that_clients_trusted_is_trusted_also_after_a_restart(tmp_path: Path) -> None:
    given = {}
    for name in ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS"):
        given[name] = str(tmp_path / name)
        (tmp_path / name).write_text(f"-----BEGIN CERTIFICATE-----\n{name}\n")
    found = certificate_of(tmp_path, given)
    first = found.bundle.read_text()
    assert [first.count(name) for name in given] == [1, 1, 1]
    found.key.unlink()  # so that the certificate is made anew
    certificate_of(tmp_path, dict.fromkeys(given, str(found.bundle_for_shells())))  # the shell has the settings
    certificate = found.certificate.read_text()
    assert found.bundle.read_text() == first.rpartition("-----BEGIN")[0] + certificate
    assert certificate not in first


def test_the_path_of_the_bundle_is_one_word_of_a_shell(tmp_path: Path) -> None:
    plain, spaced = tmp_path / "plain", tmp_path / "with a space*"
    for folder in (plain, spaced):
        folder.mkdir()
    assert certificate_of(plain, {}).bundle_for_shells() == plain / "trusted.pem"
    found = certificate_of(spaced, {})
    link = found.bundle_for_shells()
    try:
        shell = ["/bin/sh", "-c", 'export $(echo "$1"); cat "$SSL_CERT_FILE"', "sh", f"SSL_CERT_FILE={link}"]
        assert subprocess.run(shell, capture_output=True, text=True, check=True).stdout == found.bundle.read_text()
        assert found.bundle_for_shells() == link  # at the next start
    finally:
        link.unlink()


def test_a_restart_adds_the_certificate_once(tmp_path: Path) -> None:
    found = certificate_of(tmp_path, {})
    first = found.bundle.read_text()
    assert first.count("BEGIN CERTIFICATE") > 50  # of the machine, or of certifi
    certificate_of(tmp_path, {"SSL_CERT_FILE": str(found.bundle)})  # set in the shell from before
    assert found.bundle.read_text() == first
