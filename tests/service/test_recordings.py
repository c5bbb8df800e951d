"""Recordings of Azure Batch, replayed against the local Batch service: it answers alike.

`make test-live RECORD=1` makes them. Without one, a recording of the local service itself shows that replay finds what
differs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from azure.core.exceptions import ResourceNotFoundError

from tasks.errors.responses import CheckedTransport
from tests.live.session import RECORDINGS
from tests.support.batch_service import QUICK, RunningService, create_job, create_pool, run_task, shell
from tests.support.recording import Exchange, Recorder, Scrubber, read
from tests.support.replay import Answer, Difference, compare, replay, sender

PATIENCE = 20.0  # seconds, of which only what differs takes all


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> list[Exchange]:
    """A pool, a job and two Batch tasks on a service of its own, as the recorder has written them."""
    service = RunningService(tmp_path_factory.mktemp("recorded"), QUICK)
    service.start()
    try:
        with Recorder().recording() as recorder:
            client = service.client(transport=CheckedTransport())
            create_pool(client)
            create_job(client)
            run_task(client, "/bin/true")
            run_task(client, shell("exit 3"), "fails")
            with pytest.raises(ResourceNotFoundError):
                client.get_pool("none")
    finally:
        service.stop()
    path = tmp_path_factory.mktemp("recordings") / "recorded.json"
    host = service.endpoint.partition("://")[2]
    recorder.write(path, Scrubber({host: "account.region.batch.azure.com"}, [service.account.key]))
    return read(path)


def test_the_service_answers_as_it_was_recorded(recorded: list[Exchange], service: RunningService) -> None:
    assert replay(recorded, sender(service), patience=PATIENCE) == []


@pytest.mark.parametrize("path", sorted(RECORDINGS.glob("*.json")), ids=lambda path: path.stem)
def test_the_service_answers_as_azure_was_recorded(path: Path, service: RunningService) -> None:
    assert list(map(str, replay(read(path), sender(service), patience=PATIENCE))) == []


def test_a_recording_has_neither_names_nor_secrets() -> None:
    scrub = Scrubber({"mybatch": "account", "mybatch.eu.batch.azure.com": "host"}, ["c2VjcmV0"])
    id, node = "0f0e0d0c-0b0a-0908-0706-050403020100", "tvmps_00aabb_d"
    text = f"mybatch https://mybatch.eu.batch.azure.com/pools/p/nodes/{node} {id} 20.1.2.3 {id.upper()} {node}"
    scrubbed = f"00000000-0000-0000-0000-{1:012x}"
    first = f"tvmps_{1:064x}_d"
    assert scrub(text) == f"account https://host/pools/p/nodes/{first} {scrubbed} 10.0.0.1 {scrubbed} {first}"
    blob = "https://storage.blob.core.windows.net/c/b?sv=2026-10-06&sp=rcw&sig=c2lnbg%3D"
    assert scrub(f'{{"httpUrl": "{blob}"}}') == '{"httpUrl": "https://storage.blob.core.windows.net/c/b"}'
    with pytest.raises(ValueError, match="a secret is left"):
        scrub("the key is c2VjcmV0")


def task(**changes: Any) -> dict[str, Any]:
    return {"id": "task", "state": "completed", "executionInfo": {"result": "failure", "exitCode": 3}, **changes}


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        (Answer(status=200, body=task()), []),
        (Answer(status=404, body={"code": "TaskNotFound"}), ["status 404, recorded 200 (TaskNotFound)"]),
        (Answer(status=200, body=task(state="running")), ["state is ['running'], recorded ['completed']"]),
        (Answer(status=200, body=task(url="u")), ["url (text) was not recorded"]),
        (Answer(status=200, body=task(id=7)), ["id is number, recorded text"]),
        (
            Answer(status=200, body=task(executionInfo={"result": "failure"})),
            ["without executionInfo.exitCode (number)"],
        ),
        (Answer(status=200, body=None), ["no body, recorded one"]),
    ],
)
def test_replay_names_what_differs(answer: Answer, found: list[str]) -> None:
    recorded = Exchange(
        method="GET", path="/jobs/job/tasks/task", query="", request=None, status=200, headers={}, response=task()
    )
    assert list(compare(recorded, answer)) == found


def test_replay_names_the_request_and_another_code(service: RunningService) -> None:
    recorded = Exchange(
        method="GET",
        path="/pools/none",
        query="api-version=2025-06-01",
        request=None,
        status=404,
        headers={},
        response={"code": "PoolGone", "message": {"lang": "en-US", "value": "gone"}},
    )
    found = replay([recorded], sender(service), patience=0)
    assert found == [Difference(request="GET /pools/none", what="code is ['PoolNotFound'], recorded ['PoolGone']")]


def test_replay_uses_the_node_ids_of_the_service(service: RunningService) -> None:
    create_pool(service.client())
    (node,) = service.client().list_nodes("pool")
    listed = {"value": [{"id": "tvmps_1_d", "state": "idle"}]}

    def request(path: str, response: Any) -> Exchange:
        query = "api-version=2025-06-01&$select=id,state"
        return Exchange(method="GET", path=path, query=query, request=None, status=200, headers={}, response=response)

    asked: list[str] = []

    def send(exchange: Exchange) -> Answer:
        asked.append(exchange.path)
        return sender(service)(exchange)

    exchanges = [request("/pools/pool/nodes", listed), request("/pools/pool/nodes/tvmps_1_d", listed["value"][0])]
    replay(exchanges, send, patience=PATIENCE)
    assert asked == ["/pools/pool/nodes", f"/pools/pool/nodes/{node.id}"]
