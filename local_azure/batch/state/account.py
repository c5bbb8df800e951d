"""The Batch account: its name and its key."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Account:
    """A Batch account. `key` is its SharedKey in base64."""

    name: str
    key: str = field(repr=False)

    def __post_init__(self) -> None:
        try:
            base64.b64decode(self.key, validate=True)
        except binascii.Error:
            raise ValueError(f"The key of the Batch account {self.name!r} is not base64.") from None
