"""An embedded local Azure: Blob Storage by Azurite, and a Batch service that runs local processes."""

import os

from local_azure.loopback import bypass_proxies

bypass_proxies(os.environ)  # here, since a flow may run in a command, a worker or a notebook: before any HTTP client
