"""Assertions in what the tests share say as much as those in tests; to be asked for before its import."""

import pytest

pytest.register_assert_rewrite("tests.support")
