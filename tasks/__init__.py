"""The steps of the flows: one Prefect task per tutorial step, grouped by the thing it handles."""

import os

from local_azure.loopback import bypass_proxies

bypass_proxies(os.environ)  # here, since a flow may run in a command, a worker or a notebook: before any HTTP client
