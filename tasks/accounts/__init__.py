"""Which accounts a run uses, with which credential, and the SDK clients for them."""
