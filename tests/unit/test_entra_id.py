"""One credential for the process: when it asks for a token, and for which tenant."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from azure.core.credentials import AccessTokenInfo, SupportsTokenInfo

from tasks.accounts import entra_id as module
from tasks.accounts.clouds import CHINA, PUBLIC
from tasks.accounts.entra_id import KeptTokens, entra_id
from tasks.errors import InputError


class Counting(SupportsTokenInfo):
    """A credential whose tokens have numbers."""

    def __init__(self, lifetime: float, refresh_after: float | None = None) -> None:
        self.asked: list[Any] = []
        self._lifetime, self._refresh_after = lifetime, refresh_after

    def get_token_info(self, *scopes: str, options: Any = None) -> AccessTokenInfo:
        self.asked.append((*scopes, dict(options)))
        now = time.time()
        refresh_on = None if self._refresh_after is None else int(now + self._refresh_after)
        return AccessTokenInfo(f"token {len(self.asked)}", int(now + self._lifetime), refresh_on=refresh_on)

    def __exit__(self, *details: object) -> None:
        self.close()

    def close(self) -> None:
        raise AssertionError("all clients share it")


def test_a_token_is_shared_by_all_clients_until_shortly_before_it_expires() -> None:
    source = Counting(3600)
    kept = KeptTokens(source)
    with ThreadPoolExecutor(8) as pool:
        found = {token.token for token in pool.map(lambda _: kept.get_token_info("batch"), range(50))}
    assert found == {"token 1"}
    assert kept.get_token("batch", tenant_id=None).token == "token 1"
    assert kept.get_token_info("storage").token == "token 2"
    kept.close()


@pytest.mark.parametrize("source", [Counting(299), Counting(3600, refresh_after=-1)])
def test_a_token_that_will_not_last_is_renewed(source: Counting) -> None:
    kept = KeptTokens(source)
    assert [kept.get_token_info("batch").token for _ in range(2)] == ["token 1", "token 2"]


def test_a_refused_token_is_replaced() -> None:
    kept = KeptTokens(Counting(3600))
    kept.get_token_info("batch")
    assert kept.get_token_info("batch", options={"claims": "more"}).token == "token 2"
    assert kept.get_token_info("batch").token == "token 2"


def test_the_tenant_is_passed_on_and_a_service_may_name_another() -> None:
    source = Counting(3600)
    kept = KeptTokens(source, "mine")
    kept.get_token_info("storage")
    kept.get_token_info("storage", options={"tenant_id": "of the account"})
    assert source.asked == [("storage", {"tenant_id": "mine"}), ("storage", {"tenant_id": "of the account"})]


def test_a_process_has_one_credential_per_cloud(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AZURE_AUTHORITY_HOST", raising=False)
    module._credential.cache_clear()
    assert entra_id(PUBLIC) is entra_id(PUBLIC)
    assert entra_id(PUBLIC) is not entra_id(CHINA)


@pytest.mark.parametrize(
    ("setting", "value"), [("AZURE_TOKEN_CREDENTIALS", "az"), ("AZURE_AUTHORITY_HOST", "http://login.example.com")]
)
def test_a_setting_that_cannot_be_right_is_named(monkeypatch: pytest.MonkeyPatch, setting: str, value: str) -> None:
    module._credential.cache_clear()
    monkeypatch.setenv(setting, value)
    with pytest.raises(InputError, match=f"^nobody can sign in with Entra ID: .*{value}.*{setting}"):
        entra_id(PUBLIC)
    module._credential.cache_clear()
