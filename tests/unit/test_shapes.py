"""The table of request bodies is that of the installed SDK, which the service itself does not import."""

from __future__ import annotations

import subprocess
import sys

from local_azure.batch.rest import generate_shapes, shapes, versions


def test_table_matches_the_installed_sdk():
    assert shapes.FILE.read_text(encoding="utf-8") == generate_shapes.text(), (
        "shapes.json differs from the models of the installed azure-batch. Write it anew with "
        "`python -m local_azure.batch.rest.generate_shapes` and read the difference."
    )


def test_every_type_of_the_table_is_known():
    for model in generate_shapes.table()["bodies"]:
        for name, field in shapes.fields(model).items():
            known = field.type in shapes.PLAIN or shapes.enum_values(field.type) or shapes.fields(field.type)
            assert known, f"{model}.{name}"


def test_service_starts_without_importing_the_sdk():
    program = "import sys, local_azure.__main__; print([name for name in sys.modules if name.startswith('azure')])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_everything_of_a_version_is_known_to_the_table():
    for kind, name in versions.named():
        values = {*(shapes.enum_values(kind, versions.SERVED[0]) or ()), *(shapes.enum_values(kind) or ())}
        assert name in shapes.all_fields(kind) or name.lower() in values, f"{kind}.{name}"


def test_versions_are_ordered_as_text():
    assert list(versions.SERVED) == sorted(versions.SERVED)
    assert versions.OF_SHAPES in versions.SERVED
