"""TLS, sign-in with tokens, and who may use the accounts: the settings of both services and of their clients."""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from local_azure import accounts, azurite
from local_azure.batch.http import server
from local_azure.batch.http.connections import listen
from local_azure.loopback import trusting
from local_azure.tls import Certificate, certificate_of


class SignIn(Enum):
    """Whether the accounts take tokens of Entra ID, here those of the identity endpoint."""

    ACCEPT = "accept"  # beside the accounts' keys
    ONLY = "only"  # instead of them


@dataclass(frozen=True, kw_only=True)
class Security:
    """What the two services are started with."""

    batch: server.Security
    blob: azurite.Security
    certificate: Certificate | None

    @classmethod
    def of(
        cls,
        data: Path,
        keys: accounts.Keys,
        *,
        tls: bool,
        sign_in: SignIn | None,
        identity_port: int,
        administered: bool,
    ) -> Security:
        """For the data directory. With TLS this process, which downloads files for tasks, trusts its certificate too.

        Raises OSError if the identity endpoint's port is in use.
        """
        certificate = certificate_of(data, os.environ) if tls else None
        if certificate:
            os.environ.update(trusting(str(certificate.bundle)))
        entra = server.Entra.of(keys.batch) if sign_in else None
        access_file = data / "access.json" if entra or administered else None
        batch = server.Security(
            tls=certificate.server_context() if certificate else None,
            trusted=certificate.bundle if certificate else None,
            entra=entra,
            identity_listener=listen(identity_port) if entra else None,
            access=server.Access(shared_key=sign_in is not SignIn.ONLY),
            storage_access_file=access_file,
        )
        blob = azurite.Security(
            certificate=(certificate.certificate, certificate.key) if certificate else None,
            token_secret=entra.secret if entra else b"",
            access_file=access_file,
        )
        return cls(batch=batch, blob=blob, certificate=certificate)

    def settings(self, keys: accounts.Keys, batch_endpoint: str, blob_endpoint: str) -> dict[str, str]:
        """The variables for clients: without any key where tokens are taken."""
        if entra := self.batch.entra:
            found = accounts.keyless_settings(entra, self.batch.identity_endpoint, batch_endpoint, blob_endpoint)
        else:
            found = accounts.settings(keys, batch_endpoint, blob_endpoint)
        return found | (trusting(str(self.certificate.bundle_for_shells())) if self.certificate else {})
