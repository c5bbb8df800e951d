"""The environment's settings, the flow's parameters, and the names of a run."""

from __future__ import annotations

import base64
from datetime import datetime, timedelta, timezone
from uuid import UUID

import pytest
from pydantic import ValidationError

from tasks.azure import Azure
from tasks.errors import InputError
from tasks.settings import PoolSettings, Role, Run, TimeLimits

KEY = base64.b64encode(b"a key that must stay secret").decode()
BATCH = {
    "AZURE_BATCH_ACCOUNT": "mybatch",
    "AZURE_BATCH_ENDPOINT": "https://mybatch.westeurope.batch.azure.com",
    "AZURE_BATCH_ACCESS_KEY": KEY,
}
STORAGE = {"AZURE_STORAGE_ACCOUNT": "mystorage", "AZURE_STORAGE_KEY": KEY}


def refusal(environment: dict[str, str]) -> str:
    with pytest.raises(InputError) as error:
        Azure.from_environment(environment)
    assert KEY not in str(error.value)
    return str(error.value)


def test_nothing_set_means_no_account() -> None:
    assert Azure.from_environment({"PATH": "/bin", "AZURE_BATCH_ACCOUNT": " "}) is None


def test_account_and_key_find_the_public_blob_endpoint() -> None:
    azure = Azure.from_environment({**BATCH, **STORAGE})
    assert azure is not None
    assert azure.storage_account.endpoint == "https://mystorage.blob.core.windows.net"
    assert azure.storage_account.key is not None
    assert azure.storage_account.key.get_secret_value() == KEY


def test_a_connection_string_says_where_its_blobs_are() -> None:
    string = f"DefaultEndpointsProtocol=http;AccountName=acc;AccountKey={KEY};BlobEndpoint=http://127.0.0.1:10000/acc;"
    azure = Azure.from_environment({**BATCH, "AZURE_STORAGE_CONNECTION_STRING": string})
    assert azure is not None
    assert (azure.storage_account.name, azure.storage_account.endpoint) == ("acc", "http://127.0.0.1:10000/acc")


def test_a_bare_host_name_is_an_https_endpoint() -> None:
    azure = Azure.from_environment({**BATCH, **STORAGE, "AZURE_BATCH_ENDPOINT": "mybatch.westeurope.batch.azure.com"})
    assert azure is not None
    assert azure.batch_account.endpoint == BATCH["AZURE_BATCH_ENDPOINT"]


def test_keys_are_not_shown_when_an_account_is_printed() -> None:
    azure = Azure.from_environment({**BATCH, **STORAGE})
    assert azure is not None
    assert KEY not in f"{azure!r} {azure} {azure.describe()}"


@pytest.mark.parametrize("missing", ["AZURE_BATCH_ACCOUNT", "AZURE_BATCH_ENDPOINT"])
def test_half_a_batch_account_is_refused_naming_the_missing_half(missing: str) -> None:
    environment = {name: value for name, value in {**BATCH, **STORAGE}.items() if name != missing}
    assert refusal(environment).startswith(f"{missing} is not set, but AZURE_BATCH_")


def test_a_batch_account_without_storage_is_refused() -> None:
    assert refusal(BATCH).startswith("AZURE_STORAGE_CONNECTION_STRING (or AZURE_STORAGE_ACCOUNT) is not set, but ")


def test_storage_without_a_batch_account_is_refused() -> None:
    assert refusal(STORAGE).startswith(
        "AZURE_BATCH_ACCOUNT is not set, but AZURE_STORAGE_ACCOUNT, AZURE_STORAGE_KEY is:"
    )


def test_a_storage_key_without_its_account_is_refused() -> None:
    assert refusal({**BATCH, "AZURE_STORAGE_KEY": KEY}).startswith("AZURE_STORAGE_ACCOUNT is not set, but ")


def test_a_broken_connection_string_is_refused_without_being_shown() -> None:
    assert "is not a connection string" in refusal({**BATCH, "AZURE_STORAGE_CONNECTION_STRING": f"AccountKey:{KEY}"})


def test_a_connection_string_without_a_key_is_refused() -> None:
    string = "BlobEndpoint=https://a.blob.core.windows.net;SharedAccessSignature=sv=1&sig=abc"
    message = refusal({**BATCH, "AZURE_STORAGE_CONNECTION_STRING": string})
    assert "has no AccountKey" in message
    assert "abc" not in message


def test_an_endpoint_that_is_no_url_is_refused() -> None:
    assert "AZURE_BATCH_ENDPOINT is 'https://'" in refusal({**BATCH, **STORAGE, "AZURE_BATCH_ENDPOINT": "https://"})


@pytest.mark.parametrize("endpoint", ["https://[bad", "https://host:abc", "ftp://host"])
def test_an_endpoint_that_cannot_be_parsed_is_refused(endpoint: str) -> None:
    assert f"AZURE_BATCH_ENDPOINT is {endpoint!r}" in refusal({**BATCH, **STORAGE, "AZURE_BATCH_ENDPOINT": endpoint})


@pytest.mark.parametrize(
    "environment",
    [
        {**BATCH, **STORAGE, "AZURE_BATCH_ACCESS_KEY": "not base64 !!"},
        {**BATCH, **STORAGE, "AZURE_STORAGE_KEY": "not base64 !!"},
        {**BATCH, "AZURE_STORAGE_CONNECTION_STRING": "AccountName=a;AccountKey=not base64 !!"},
    ],
)
def test_a_key_that_is_not_base64_is_refused_without_being_shown(environment: dict[str, str]) -> None:
    message = refusal(environment)
    assert "holds no account key: a key is base64" in message
    assert "not base64 !!" not in message


def test_no_key_over_plain_http_is_refused() -> None:
    environment = {**BATCH, **STORAGE, "AZURE_BATCH_ENDPOINT": "http://127.0.0.1:1", "AZURE_BATCH_ACCESS_KEY": ""}
    assert "no Entra ID token is ever sent over plain http" in refusal(environment)


def test_an_emptied_pool_id_means_a_new_pool() -> None:
    assert PoolSettings(existing_pool_id="").existing_pool_id is None


def test_a_bad_pool_id_is_refused_naming_the_rule() -> None:
    with pytest.raises(
        ValidationError, match="'my pool!' is not a pool id; an id has 1 to 64 letters, digits, - and _"
    ):
        PoolSettings(existing_pool_id="my pool!")


def test_an_image_that_is_not_in_three_parts_is_refused() -> None:
    with pytest.raises(ValidationError, match="'ubuntu' is not an image; write publisher:offer:sku"):
        PoolSettings(image="ubuntu")


def test_a_pool_without_nodes_is_refused() -> None:
    with pytest.raises(ValidationError, match="dedicated_nodes and spot_nodes are both 0"):
        PoolSettings(dedicated_nodes=0)
    assert PoolSettings(dedicated_nodes=0, spot_nodes=1).spot_nodes == 1


def test_a_mistyped_setting_is_refused() -> None:
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        TimeLimits(run_minuts=3)  # type: ignore[call-arg]


NOON = datetime(2026, 11, 22, 12, tzinfo=timezone.utc)


def run(flow_run_id: str, started: datetime = NOON) -> Run:
    return Run(flow_run_id=flow_run_id, started=started, lifetime=timedelta(hours=2))


def test_runs_that_start_in_the_same_millisecond_have_different_names() -> None:
    # UUIDv7: the same 48 bits of time, another random tail.
    one, other = UUID("019a0000-0000-7000-8000-000000000001"), UUID("019a0000-0000-7000-8000-000000000002")
    assert run(str(one)).name == "top-words-000000000001"
    assert run(str(other)).name == "top-words-000000000002"


def test_a_retry_of_a_run_has_the_names_of_its_first_try() -> None:
    first, second = run("019a-1", NOON), run("019a-1", NOON + timedelta(hours=1))
    assert (first.pool_id, first.job_id, first.container(Role.INPUT)) == (
        second.pool_id,
        second.job_id,
        second.container(Role.INPUT),
    )


def test_a_run_owns_what_carries_its_tags_and_nothing_else() -> None:
    mine = run("019a-1")
    assert mine.owns(mine.tags)
    assert not mine.owns(run("019a-2").tags)
    assert not mine.owns(None)
    assert not mine.owns({"flow_run": "019a-1", "project": "another"})


def test_tags_say_when_the_run_s_resources_expire() -> None:
    assert run("x").tags["expires"] == "2026-11-22T14:00:00+00:00"
