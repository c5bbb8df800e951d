"""The account has no applications: references to them are refused as Azure refuses those to missing ones."""

from __future__ import annotations

import pytest
from azure.batch import models as m
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError

from tests.support.batch_service import MACHINE, create_job, create_pool, pool_options, task


def test_the_account_has_no_applications(client):
    assert list(client.list_applications()) == []
    with pytest.raises(ResourceNotFoundError) as refusal:
        client.get_application("app")
    assert refusal.value.error.code == "ApplicationNotFound"


def _refer_to_a_missing_application(client, kind: str) -> None:
    packages = [m.BatchApplicationPackageReference(application_id="App", version="1.0")]
    manager = m.BatchJobManagerTask(id="m", command_line="/bin/true", application_package_references=packages)
    if kind == "pool":
        client.create_pool(pool_options("other", application_package_references=packages))
    elif kind == "changed pool":
        client.update_pool("pool", m.BatchPoolUpdateOptions(application_package_references=packages))
    elif kind == "replaced pool":
        replaced = m.BatchPoolReplaceOptions(application_package_references=packages, metadata=[])
        client.replace_pool_properties("pool", replaced)
    elif kind == "task":
        client.create_task("job", task(application_package_references=packages))
    elif kind == "job manager":
        create_job(client, "managed", job_manager_task=manager)
    else:
        job = m.BatchJobSpecification(pool_info=m.BatchPoolInfo(pool_id="pool"), job_manager_task=manager)
        client.create_job_schedule(
            m.BatchJobScheduleCreateOptions(id="s", schedule=m.BatchJobScheduleConfiguration(), job_specification=job)
        )


@pytest.mark.parametrize("kind", ["pool", "changed pool", "replaced pool", "task", "job manager", "schedule"])
def test_a_reference_to_a_missing_application_is_refused(client, kind):
    """Status, code and values are those of recorded answers for pools."""
    create_pool(client, target_dedicated_nodes=0)
    create_job(client)
    with pytest.raises(HttpResponseError) as refusal:
        _refer_to_a_missing_application(client, kind)
    assert (refusal.value.status_code, refusal.value.error.code) == (409, "InvalidApplicationPackageReferences")
    values = {each.key: each.value for each in refusal.value.model.error_values}
    assert values == {"App": "The specified application package does not exist."}


def test_an_empty_list_of_applications_is_none(client):
    create_pool(client, application_package_references=[], target_dedicated_nodes=0)
    create_job(client)
    client.create_task("job", task(application_package_references=[]))
    assert client.get_pool("pool").application_package_references is None
    assert client.get_task("job", "task").application_package_references is None


def test_a_job_whose_auto_pool_has_no_application_completes(client):
    packages = [m.BatchApplicationPackageReference(application_id="app")]
    pool = m.BatchPoolSpecification(
        vm_size="standard_d2s_v3", virtual_machine_configuration=MACHINE, application_package_references=packages
    )
    auto = m.BatchAutoPoolSpecification(pool_lifetime_option="job", pool=pool)
    client.create_job(m.BatchJobCreateOptions(id="job", pool_info=m.BatchPoolInfo(auto_pool_specification=auto)))
    job = client.get_job("job")
    error = job.execution_info.scheduling_error
    assert (job.state, error.category, error.code) == (
        "completed",
        "UserError",
        "InvalidApplicationPackageReferencesInAutoPool",
    )
    assert [(each.name, each.value) for each in error.details] == [
        ("app", "The specified application package does not exist.")
    ]
    assert list(client.list_pools()) == []
