"""What several unit tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.blob_server import BlobServer, serving


@pytest.fixture
def server() -> Iterator[BlobServer]:
    with serving() as blob_server:
        yield blob_server
