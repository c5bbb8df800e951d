"""The protocol itself, by requests that are made by hand where the SDK would not make them."""

from __future__ import annotations

import base64
from datetime import timedelta
from urllib.parse import parse_qs, urlsplit

import pytest
import requests
from azure.batch import BatchClient
from azure.batch import models as m
from azure.core import MatchConditions
from azure.core.credentials import AzureNamedKeyCredential
from azure.core.exceptions import HttpResponseError, ResourceModifiedError

from tests.support.batch_service import create_job, pool_options
from tests.support.raw_requests import VERSION, Raw

LATER = {"doNotRunUntil": "2099-01-01T00:00:00Z"}
SCHEDULE = {"id": "there", "schedule": LATER, "jobSpecification": {"poolInfo": {"poolId": "pool"}}}


@pytest.fixture
def raw(service):
    return Raw(service)


def code(response) -> tuple[int, str]:
    return response.status_code, response.json()["code"]


def test_answer_has_the_headers_of_the_service(raw):
    identity = {"client-request-id": "mine", "return-client-request-id": "true"}
    response = raw("GET", "/pools", headers=identity)
    assert response.status_code == 200
    assert response.headers["Content-Type"] == "application/json; odata=minimalmetadata"
    assert response.headers["DataServiceVersion"] == "3.0"
    assert len(response.headers["request-id"]) == 36
    assert response.headers["client-request-id"] == "mine"
    assert response.json() == {"odata.metadata": f"{raw.service.endpoint}/$metadata#pools", "value": []}
    assert "client-request-id" not in raw("GET", "/pools", headers={"client-request-id": "mine"}).headers


def test_written_resource_is_named_by_the_headers(raw, service):
    body = {"id": "job", "poolInfo": {"poolId": "pool"}}
    response = raw("POST", "/jobs", body=body)
    assert (response.status_code, response.content) == (201, b"")
    assert response.headers["Location"] == f"{service.endpoint}/jobs/job"
    assert response.headers["DataServiceId"] == f"{service.endpoint}/jobs/job"
    job = raw("GET", "/jobs/job")
    assert job.headers["ETag"] == job.json()["eTag"] == response.headers["ETag"]
    assert response.headers["ETag"].startswith("0x8D")
    assert job.json()["odata.metadata"] == f"{service.endpoint}/$metadata#jobs/@Element"


def test_error_has_the_body_of_the_service(raw):
    response = raw("GET", "/pools/none")
    assert response.status_code == 404
    body = response.json()
    assert body["code"] == "PoolNotFound"
    assert body["message"]["lang"] == "en-US"
    first, request_id, time = body["message"]["value"].split("\n")
    assert first == "The specified pool does not exist."
    assert request_id == f"RequestId:{response.headers['request-id']}"
    assert time.startswith("Time:20")


@pytest.mark.parametrize(
    "tampered",
    [
        {"key": base64.b64encode(b"another key").decode()},
        {"name": "another"},
        {"late": -timedelta(minutes=16)},
        {"late": timedelta(minutes=16)},
        {"signed_path": f"/jobs?api-version={VERSION}"},
        {"signed_path": f"/pools?api-version={VERSION}&maxresults=1"},
    ],
    ids=["key", "account", "old", "future", "path", "query"],
)
def test_request_that_is_not_authentic_is_refused(raw, tampered):
    assert code(raw("GET", "/pools", **tampered)) == (403, "AuthenticationFailed")


def test_request_within_the_window_is_accepted(raw):
    assert raw("GET", "/pools", late=-timedelta(minutes=14)).status_code == 200


def test_request_without_a_signature_is_refused(service):
    response = requests.get(f"{service.endpoint}/pools?api-version={VERSION}")
    assert code(response) == (403, "AuthenticationFailed")


def test_moved_clock_does_not_affect_signatures(client, service):
    service.advance(hours=5)
    assert list(client.list_pools()) == []


def test_request_by_another_host_name_is_refused(raw):
    assert code(raw("GET", "/pools", headers={"Host": "evil.example"})) == (400, "InvalidHeaderValue")


@pytest.mark.parametrize(
    "version", ["2026-10-01", "2025-06-01", "2024-02-01.19.0", "2022-10-01.16.0", "2020-09-01.12.0"]
)
def test_known_api_versions_are_served(raw, version):
    assert raw("GET", "/pools", version=version).status_code == 200


@pytest.mark.parametrize("version", ["2031-01-01", "2025-06-02", "latest", "2024-02-30.19.0", "2020-03-01.11.0"])
def test_unknown_api_versions_are_refused(raw, version):
    assert code(raw("GET", "/pools", version=version)) == (400, "UnsupportedRequestVersion")


def test_missing_api_version_is_refused(raw):
    assert code(raw("GET", "/pools", version="")) == (400, "MissingRequiredQueryParameter")


def test_unknown_query_parameter_is_refused_by_name(raw):
    response = raw("GET", "/pools?colour=red")
    assert code(response) == (400, "UnsupportedQueryParameter")
    assert {"key": "QueryParameterName", "value": "colour"} in response.json()["values"]


def test_unknown_property_is_refused_by_name(raw):
    body = {"id": "job", "poolInfo": {"poolId": "pool", "colour": "red"}}
    response = raw("POST", "/jobs", body=body)
    assert code(response) == (400, "InvalidRequestBody")
    assert {"key": "PropertyName", "value": "poolInfo.colour"} in response.json()["values"]


@pytest.mark.parametrize(
    ("body", "expected", "named"),
    [
        ({"id": "job"}, "MissingRequiredProperty", "poolInfo"),
        ({"id": "job", "poolInfo": {}, "priority": "high"}, "InvalidPropertyValue", "priority"),
        ({"id": "job", "poolInfo": {}, "usesTaskDependencies": 1}, "InvalidPropertyValue", "usesTaskDependencies"),
        ({"id": "job", "poolInfo": {}, "onTaskFailure": "panic"}, "InvalidPropertyValue", "onTaskFailure"),
        (
            {"id": "job", "poolInfo": {}, "constraints": {"maxWallClockTime": "1 h"}},
            "InvalidPropertyValue",
            "constraints.maxWallClockTime",
        ),
        ({"id": 5, "poolInfo": {}}, "InvalidPropertyValue", "id"),
        ({"id": "job", "poolInfo": []}, "InvalidPropertyValue", "poolInfo"),
    ],
)
def test_property_of_a_wrong_kind_is_refused_by_name(raw, body, expected, named):
    response = raw("POST", "/jobs", body=body)
    assert code(response) == (400, expected)
    assert {"key": "PropertyName", "value": named} in response.json()["values"]


def test_body_that_is_not_json_is_refused(raw, service):
    client_side = raw("POST", "/jobs", body=["not an object"])
    assert code(client_side) == (400, "InvalidRequestBody")


def test_body_that_is_too_large_is_refused(raw):
    assert code(raw("POST", "/jobs", body={"id": "x" * (1 << 20)})) == (413, "RequestBodyTooLarge")


@pytest.mark.parametrize(("method", "path"), [("GET", "/nothing"), ("GET", "/"), ("GET", "/pools/a/b/c/d/e")])
def test_unknown_path_is_refused(raw, method, path):
    assert code(raw(method, path)) == (400, "InvalidUri")


def test_wrong_method_is_refused(raw):
    assert code(raw("PUT", "/pools")) == (405, "UnsupportedHttpVerb")


def test_operation_that_is_not_served_is_named(raw):
    response = raw("GET", "/pools/p/nodes/n/extensions")
    assert code(response) == (501, "NotImplemented")
    assert "list_node_extensions" in response.json()["message"]["value"]


@pytest.mark.parametrize(
    ("method", "path", "name"),
    [
        ("GET", "/certificates", "list_certificates"),
        ("DELETE", "/certificates(thumbprintAlgorithm=sha1,thumbprint=00)", "delete_certificate"),
        ("POST", "/certificates(thumbprintAlgorithm=sha1,thumbprint=00)/canceldelete", "cancel_certificate_deletion"),
        ("GET", "/lifetimejobstats", "get_all_job_lifetime_statistics"),
        ("GET", "/pools/p/nodes/n/rdp", "get_node_remote_desktop"),
    ],
)
def test_operation_of_a_former_version_is_named(raw, method, path, name):
    response = raw(method, path, version="2024-02-01.19.0")
    assert code(response) == (501, "NotImplemented")
    assert name in response.json()["message"]["value"]


@pytest.mark.parametrize("query", ["maxresults=-1", "maxresults=many", "timeout=abc"])
def test_query_that_is_no_number_is_refused(raw, query):
    assert code(raw("GET", f"/pools?{query}")) == (400, "InvalidQueryParameterValue")


def test_unknown_value_of_an_enumeration_in_a_filter_is_refused(raw):
    assert code(raw("GET", "/jobs?$filter=state%20eq%20%27acive%27")) == (400, "InvalidQueryParameterValue")
    assert raw("GET", "/jobs?$filter=state%20eq%20%27Active%27").ok


def test_body_is_checked_before_existence(raw):
    assert code(raw("POST", "/jobs/none/tasks", body={"id": "t"})) == (400, "MissingRequiredProperty")
    assert code(raw("PATCH", "/pools/none", body={"colour": 1})) == (400, "InvalidRequestBody")


@pytest.mark.parametrize(
    ("method", "path", "body", "refusal"),
    [
        ("PATCH", "/jobs/none", {"priority": 1001}, "OutOfRangePriority"),
        ("PUT", "/jobs/none", {"poolInfo": {"poolId": "not an id"}}, "InvalidPropertyValue"),
        ("POST", "/jobs/none/tasks", {"id": "not an id", "commandLine": "true"}, "InvalidPropertyValue"),
        ("PUT", "/jobs/none/tasks/none", {"constraints": {"maxTaskRetryCount": -2}}, "InvalidPropertyValue"),
        ("POST", "/jobschedules", {**SCHEDULE, "schedule": {"startWindow": "PT1S"}}, "InvalidPropertyValue"),
        ("PATCH", "/jobschedules/none", {"schedule": {"startWindow": "PT1S"}}, "InvalidPropertyValue"),
        ("PATCH", "/pools/none", {"startTask": {"commandLine": " "}}, "InvalidPropertyValue"),
        ("POST", "/pools/none/resize", {"targetDedicatedNodes": -1}, "InvalidPropertyValue"),
        ("POST", "/pools/none/removenodes", {"nodeList": []}, "InvalidPropertyValue"),
        ("POST", "/pools/none/enableautoscale", {"autoScaleEvaluationInterval": "PT1M"}, "InvalidPropertyValue"),
        ("POST", "/pools/none/evaluateautoscale", {"autoScaleFormula": "("}, "AutoScalingFormulaSyntaxError"),
        ("POST", "/pools/none/nodes/none/users", {"name": "not a name"}, "InvalidPropertyValue"),
    ],
)
def test_values_are_checked_before_existence(raw, method, path, body, refusal):
    assert raw("POST", "/jobschedules", body=SCHEDULE).ok
    assert code(raw(method, path, body=body)) == (400, refusal)


LISTS = ["/pools", "/nodecounts", "/supportedimages", "/jobs", "/jobschedules", "/jobs/none/tasks", "/pools/none/nodes"]


@pytest.mark.parametrize("path", LISTS)
def test_page_size_is_checked_by_all_lists_before_existence(raw, path):
    assert code(raw("GET", f"{path}?maxresults=-1")) == (400, "InvalidQueryParameterValue")
    assert code(raw("GET", f"{path}?maxresults=1001")) == (400, "OutOfRangeQueryParameterValue")


def test_deletion_is_answered_without_etag_as_in_azure(raw, client):
    client.create_pool(pool_options(target_dedicated_nodes=0))
    create_job(client)
    for path, status in (("/pools/pool", 202), ("/jobs/job", 202)):
        response = raw("DELETE", path)
        assert response.status_code == status
        assert not {"ETag", "Last-Modified", "DataServiceId"} & response.headers.keys()


def test_names_that_are_too_long_are_refused(raw):
    pool = {"poolId": "pool"}
    assert raw("POST", "/jobs", body={"id": "job", "poolInfo": pool, "displayName": "x" * 1024}).ok
    response = raw("POST", "/jobs", body={"id": "job2", "poolInfo": pool, "displayName": "x" * 1025})
    assert code(response) == (400, "InvalidPropertyValue")
    assert {"key": "PropertyName", "value": "displayName"} in response.json()["values"]


@pytest.mark.parametrize("size", ["0", "1001"])
def test_page_size_out_of_range_is_refused(raw, size):
    assert code(raw("GET", f"/pools?maxresults={size}")) == (400, "OutOfRangeQueryParameterValue")


def test_unknown_selected_property_is_refused(raw):
    assert code(raw("GET", "/pools?$select=id,colour")) == (400, "InvalidQueryParameterValue")


def test_unknown_expanded_property_is_refused(raw):
    assert code(raw("GET", "/pools?$expand=stats,colour")) == (400, "InvalidQueryParameterValue")
    assert raw("GET", "/pools?$expand=stats").ok


def test_next_link_keeps_the_query(raw, client):
    for name in ("a", "b", "c"):
        create_job(client, name)
    page = raw("GET", "/jobs?$filter=state%20eq%20%27active%27&$select=id&maxresults=2").json()
    assert [job["id"] for job in page["value"]] == ["a", "b"]
    link = urlsplit(page["odata.nextLink"])
    assert parse_qs(link.query)["$filter"] == ["state eq 'active'"]
    following = raw("GET", f"{link.path}?{link.query.replace('api-version=2025-06-01', '').strip('&')}").json()
    assert following["value"] == [{"id": "c"}]
    assert "odata.nextLink" not in following


def test_durations_are_shown_in_their_canonical_form(raw):
    body = {"id": "job", "poolInfo": {"poolId": "p"}, "constraints": {"maxWallClockTime": "PT06M00S"}}
    raw("POST", "/jobs", body=body)
    assert raw("GET", "/jobs/job").json()["constraints"] == {"maxWallClockTime": "PT6M", "maxTaskRetryCount": 0}


def test_update_under_a_stale_etag_is_refused(client):
    client.create_pool(pool_options(target_dedicated_nodes=0))
    etag = client.get_pool("pool").etag
    change = m.BatchPoolUpdateOptions(metadata=[m.BatchMetadataItem(name="a", value="b")])
    client.update_pool("pool", change, etag=etag, match_condition=MatchConditions.IfNotModified)
    with pytest.raises(ResourceModifiedError) as refusal:
        client.update_pool("pool", change, etag=etag, match_condition=MatchConditions.IfNotModified)
    assert (refusal.value.status_code, refusal.value.error.code) == (412, "ConditionNotMet")


def test_unmodified_resource_is_not_sent_again(raw, client):
    create_job(client)
    job = raw("GET", "/jobs/job")
    for condition in ({"If-None-Match": job.headers["ETag"]}, {"If-Modified-Since": job.headers["Last-Modified"]}):
        again = raw("GET", "/jobs/job", headers=condition)
        assert (again.status_code, again.content) == (304, b"")
    assert raw("GET", "/jobs/job", headers={"If-Match": '"0x1"'}).status_code == 412
    long_ago = "Mon, 01 Jan 2001 00:00:00 GMT"
    assert raw("GET", "/jobs/job", headers={"If-Unmodified-Since": long_ago}).status_code == 412
    assert raw("GET", "/jobs/job", headers={"If-Modified-Since": long_ago}).status_code == 200


def test_client_with_a_wrong_key_is_refused(service):
    key = base64.b64encode(b"another key").decode()
    client = BatchClient(service.endpoint, AzureNamedKeyCredential(service.account.name, key))
    with pytest.raises(HttpResponseError) as refusal:
        list(client.list_pools())
    assert (refusal.value.status_code, refusal.value.error.code) == (403, "AuthenticationFailed")
    assert key not in str(refusal.value)
    assert service.account.key not in str(refusal.value)


def test_numbers_and_flags_may_be_text_as_the_az_command_sends_them(raw) -> None:
    pool = {
        "id": "typed",
        "vmSize": "standard_d2s_v3",
        "virtualMachineConfiguration": {
            "imageReference": {"publisher": "canonical", "offer": "ubuntu-24_04-lts", "sku": "server"},
            "nodeAgentSKUId": "batch.node.ubuntu 24.04",
        },
        "targetDedicatedNodes": "0",
        "taskSlotsPerNode": "2",
        "enableInterNodeCommunication": "False",
    }
    assert raw("POST", "/pools", body=pool).status_code == 201
    created = raw("GET", "/pools/typed").json()
    assert (created["targetDedicatedNodes"], created["taskSlotsPerNode"]) == (0, 2)
    assert created["enableInterNodeCommunication"] is False
    assert code(raw("POST", "/pools", body={**pool, "id": "other", "taskSlotsPerNode": "two"})) == (
        400,
        "InvalidPropertyValue",
    )
