"""An embedded local Azure: Blob Storage by Azurite, and a Batch service that runs local processes."""

import os

from local_azure.loopback import bypass_proxies

bypass_proxies(os.environ)  # on import, so that it precedes any HTTP client of a command, worker or notebook
