"""Where the nodes store outputs: the run's own output container, or a prefix in a container of the user's."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote

from tasks.accounts.clients import Access, Azure
from tasks.accounts.sources import SourceContainer
from tasks.errors import InputError
from tasks.inputs.addresses import is_blob_address
from tasks.run.identity import Role, Run
from tasks.run.output_address import output_address
from tasks.run.records import OUTPUTS


@dataclass(frozen=True, kw_only=True)
class Destination:
    """A folder of blobs; `kept` if it is the user's, so that outputs stay there and are not downloaded."""

    endpoint: str
    container: str
    prefix: str  # without a slash at its end
    kept: bool = False

    @classmethod
    def of(cls, azure: Azure, run: Run, output: str) -> Destination:
        """The destination that `output` names, a folder of this machine or an address. Raises InputError."""
        if not is_blob_address(output):
            endpoint = azure.storage_account.endpoint
            return cls(endpoint=endpoint, container=run.container(Role.OUTPUT), prefix=OUTPUTS)
        address = output_address(output)
        endpoint = address.endpoint or azure.blob_endpoint_of(address.account)
        access = azure.access_to(SourceContainer(endpoint=endpoint, name=address.container))
        if access is Access.PUBLIC and azure.storage_account.key is None:
            raise InputError(
                f"output {address}: its host is none of Azure's, and no token of the run's identity is sent there; "
                "name a container of an Azure storage account"
            )
        if access is Access.PUBLIC:
            raise InputError(
                f"output {address}: it is not in the run's own account {azure.storage_account.name}, whose key cannot "
                "write there; name a container of that account, or run with Entra ID instead of an account key"
            )
        return cls(endpoint=endpoint, container=address.container, prefix=address.glob.text.strip("/"), kept=True)

    @property
    def url(self) -> str:
        """Of the container."""
        return f"{self.endpoint}/{quote(self.container, safe='$')}"

    def folder(self, place: str) -> str:
        """The prefix of the outputs of the input file that has this place among the results."""
        return f"{self.prefix}/{place}" if self.prefix else place

    def __str__(self) -> str:
        return f"{self.url}/{self.prefix}".rstrip("/")
