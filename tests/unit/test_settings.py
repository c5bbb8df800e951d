"""The environment's settings, the flow's parameters, and the names of a run."""

from __future__ import annotations

import base64
from datetime import datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import pytest
from pydantic import ValidationError

from tasks.accounts.clients import Azure
from tasks.errors import InputError
from tasks.run.identity import Role, Run
from tasks.run.settings import PoolSettings, RunSettings, TimeLimits, settings_in

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
        "AZURE_BATCH_ACCOUNT and AZURE_BATCH_ENDPOINT are not set, but AZURE_STORAGE_ACCOUNT, AZURE_STORAGE_KEY are:"
    )


def test_a_storage_key_without_its_account_is_refused() -> None:
    assert refusal({**BATCH, "AZURE_STORAGE_KEY": KEY}).startswith("AZURE_STORAGE_ACCOUNT is not set, but ")


def test_a_lone_storage_key_is_refused_naming_all_that_is_missing() -> None:
    assert refusal({"AZURE_STORAGE_KEY": KEY}).startswith(
        "AZURE_BATCH_ACCOUNT, AZURE_BATCH_ENDPOINT and AZURE_STORAGE_ACCOUNT are not set, but AZURE_STORAGE_KEY is: "
    )


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("AZURE_BATCH_ACOUNT", "AZURE_BATCH_ACCOUNT"),
        ("AZURE_BATCH_ACCOUNT_NAME", "AZURE_BATCH_ACCOUNT"),
        ("AZURE_BATCH_ACCOUNT_KEY", "AZURE_BATCH_ACCESS_KEY"),
        ("AZURE_BATCH_ACCOUNT_URL", "AZURE_BATCH_ENDPOINT"),
        ("azure_batch_endpoint", "AZURE_BATCH_ENDPOINT"),
        ("AZURE_BACTH_ACCOUNT", "AZURE_BATCH_ACCOUNT"),
        ("AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT"),
        ("AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_KEY"),
        ("AZURE_STORAGE_CONECTION_STRING", "AZURE_STORAGE_CONNECTION_STRING"),
        ("AZURE_STORGE_KEY", "AZURE_STORAGE_KEY"),
    ],
)
def test_a_misspelled_setting_is_refused_with_the_nearest_one(name: str, meant: str) -> None:
    for environment in ({name: KEY}, {**BATCH, **STORAGE, name: KEY}):
        assert refusal(environment) == (
            f"{name} is not a setting of this program; did you mean {meant}? Rename or unset it"
        )


def test_settings_of_other_programs_are_left_alone() -> None:
    others = ["STORAGE_AUTH_MODE", "STORAGE_CONTAINER_NAME", "CLIENT_ID", "BATCHAI_STORAGE_KEY", "SEARCH_ENDPOINT"]
    assert Azure.from_environment({f"AZURE_{name}": "x" for name in others}) is None


@pytest.mark.parametrize("quote", ["'", '"'])
def test_quotes_around_a_value_are_not_part_of_it(quote: str) -> None:
    plain = {**BATCH, **STORAGE}
    assert Azure.from_environment(
        {name: f"{quote}{value}{quote}\r" for name, value in plain.items()}
    ) == Azure.from_environment(plain)


def test_a_lone_quote_is_refused_without_showing_the_value() -> None:
    environment = {**BATCH, **STORAGE, "AZURE_STORAGE_KEY": f'"{KEY}'}
    assert refusal(environment) == "the value of AZURE_STORAGE_KEY begins or ends with a quote; write it without quotes"


@pytest.mark.parametrize("scheme", ["https://", ""])
def test_an_account_given_as_url_is_understood(scheme: str) -> None:
    urls = {
        "AZURE_BATCH_ACCOUNT": f"{scheme}mybatch.westeurope.batch.azure.com",
        "AZURE_BATCH_ACCESS_KEY": KEY,
        "AZURE_STORAGE_ACCOUNT": f"{scheme}mystorage.blob.core.windows.net/",
        "AZURE_STORAGE_KEY": KEY,
    }
    assert Azure.from_environment(urls) == Azure.from_environment({**BATCH, **STORAGE})


def test_the_blob_endpoint_of_az_is_used() -> None:
    endpoint = "https://mystorage.blob.core.chinacloudapi.cn"
    azure = Azure.from_environment({**BATCH, **STORAGE, "AZURE_STORAGE_SERVICE_ENDPOINT": endpoint})
    assert azure is not None
    assert azure.storage_account.endpoint == endpoint


@pytest.mark.parametrize("setting", ["AZURE_BATCH_ACCOUNT", "AZURE_STORAGE_ACCOUNT"])
@pytest.mark.parametrize("value", ["My Account", "http://127.0.0.1:10000/devstoreaccount1", "https://[bad"])
def test_what_is_no_account_name_is_refused(setting: str, value: str) -> None:
    assert refusal({**BATCH, **STORAGE, setting: value}).startswith(f"{setting} is {value!r}, which is not an account")


def test_a_key_in_place_of_a_name_is_not_shown() -> None:
    key = base64.b64encode(bytes(range(64))).decode()
    for setting in ("AZURE_BATCH_ACCOUNT", "AZURE_BATCH_ENDPOINT", "AZURE_STORAGE_ACCOUNT"):
        message = refusal({**BATCH, **STORAGE, setting: key, "AZURE_BATCH_ACCESS_KEY": "a2V5"})
        assert key not in message


def test_a_sas_token_alone_is_refused_as_it_cannot_sign() -> None:
    token = {"AZURE_STORAGE_ACCOUNT": "mystorage", "AZURE_STORAGE_SAS_TOKEN": "sv=1&sig=abc"}
    message = refusal({**BATCH, **token})
    assert message.startswith("AZURE_STORAGE_SAS_TOKEN is set without an account key, and a SAS token cannot sign")
    assert "abc" not in message
    assert Azure.from_environment({**BATCH, **STORAGE, **token}) == Azure.from_environment({**BATCH, **STORAGE})


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


@pytest.mark.parametrize(
    ("endpoint", "key"),
    [
        ("AZURE_BATCH_ENDPOINT", "AZURE_BATCH_ACCESS_KEY"),
        ("AZURE_STORAGE_SERVICE_ENDPOINT", "AZURE_STORAGE_KEY"),
    ],
)
def test_no_key_over_plain_http_is_refused(endpoint: str, key: str) -> None:
    message = refusal({**BATCH, **STORAGE, endpoint: "http://127.0.0.1:1", key: ""})
    assert message == (
        f"{endpoint} is http://127.0.0.1:1, and no Entra ID token is ever sent over plain http; set {key}, or use the "
        "https endpoint"
    )


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


GALLERY = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Compute/galleries/ours/images/align"
IDENTITY = "/subscriptions/s/resourceGroups/g/providers/Microsoft.ManagedIdentity/userAssignedIdentities/nodes"
SUBNET = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Network/virtualNetworks/ours/subnets/nodes"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"image": "/subscriptions/s/images/align"},
            "is not the id of an image in a gallery; it looks like /subscript",
        ),
        (
            {"image": "/SharedGalleries/a/Images/b"},
            "is not the id of an image in a gallery; it looks like /subscriptions",
        ),
        ({"image": f"{GALLERY}/versions/"}, "is not the id of an image in a gallery; it looks like /subscriptions/ID/"),
        ({"image": GALLERY}, "node_agent_sku is not set, and image is of a gallery: "),
        (
            {"image": GALLERY, "node_agent_sku": "ubuntu 24.04"},
            "'ubuntu 24.04' is not a node agent; it looks like batch",
        ),
        (
            {"node_agent_sku": "batch.node.el 9"},
            "node_agent_sku is for an image of a gallery; that of other images is ",
        ),
        ({"subnet_id": "nodes"}, "'nodes' is not the id of a subnet; it looks like /subscriptions/ID/resourceGroups/"),
        ({"subnet_id": SUBNET.rpartition("/subnets")[0]}, "/ours' is not the id of a subnet; it looks like /subscript"),
        (
            {"subnet_id": SUBNET, "existing_pool_id": "team"},
            "subnet_id is for a new pool; existing_pool_id names one, ",
        ),
        (
            {"node_identity": "nodes", "existing_pool_id": "team"},
            "'nodes' is not the resource id of a managed identity; ",
        ),
        (
            {"node_identity": IDENTITY},
            "node_identity is set, and Azure Batch gives managed identities only to pools that ",
        ),
        (
            {"public_ip": "none"},
            "public_ip is none, which Azure Batch permits only in a subnet of your own: nodes would",
        ),
    ],
)
def test_an_image_network_or_identity_that_cannot_work_is_refused(settings: dict[str, str], said: str) -> None:
    with pytest.raises(ValidationError) as error:
        PoolSettings.model_validate(settings)
    assert said in str(error.value)


def test_an_emptied_image_network_and_identity_are_the_defaults() -> None:
    empty = {"image": "", "node_agent_sku": "", "subnet_id": "", "node_identity": "", "container_registry": ""}
    assert PoolSettings.model_validate({**empty, "container_image": ""}) == PoolSettings()


def test_a_task_that_needs_more_slots_than_a_new_node_has_is_refused() -> None:
    with pytest.raises(
        ValidationError, match=r"slots_per_task is 3, but a node has 2 \(slots_per_node\); no node could"
    ):
        PoolSettings(slots_per_node=2, slots_per_task=3)


def test_a_pool_without_nodes_is_refused() -> None:
    with pytest.raises(ValidationError, match="dedicated_nodes and spot_nodes are both 0"):
        PoolSettings(dedicated_nodes=0)
    assert PoolSettings(dedicated_nodes=0, spot_nodes=1).spot_nodes == 1


def test_a_mistyped_setting_is_refused() -> None:
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        TimeLimits(run_minuts=3)  # type: ignore[call-arg]


NOON = datetime(2026, 11, 22, 12, tzinfo=timezone.utc)


def run(flow_run_id: str, started: datetime = NOON) -> Run:
    return Run(workload="top-words", flow_run_id=flow_run_id, started=started, lifetime=timedelta(hours=2))


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


@pytest.mark.parametrize(
    "parameters",
    [
        {"accounts": "prod", "clean_up": {"pool": "keep"}},
        {"inputs": [], "settings": {"accounts": "prod", "clean_up": {"pool": "keep"}}},
    ],
)
def test_settings_of_a_run_are_found_nested_or_not(parameters: dict[str, Any]) -> None:
    found = settings_in(parameters)
    assert (found["accounts"], found["clean_up"]) == ("prod", {"pool": "keep"})


def test_settings_of_a_run_are_found_as_a_model() -> None:
    assert settings_in({"settings": RunSettings(accounts="prod")})["accounts"] == "prod"


def test_the_python_of_the_nodes_is_a_version_without_patch() -> None:
    assert PoolSettings(node_python="3.12").node_python == "3.12"
    assert PoolSettings(node_python="").node_python is None
    with pytest.raises(ValidationError, match=r"'3\.12\.1' is not a Python version; write it without the patch, such"):
        PoolSettings(node_python="3.12.1")
