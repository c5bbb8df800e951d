"""A Batch task with a group of files and a storage service that judges its requests."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from azure.storage.blob import ContainerSasPermissions, generate_container_sas

import run_file
from tasks.accounts.clients import Azure
from tasks.run.identity import Role, Run
from tasks.run.records import FileRecord
from tests.support.records import contents

SCRIPT = """\
import os
def process_file(arguments):
    text = open(arguments[0]).read()
    print(text)
    if text == os.environ.get("BAD"):
        return 3
    for name, size in (("small", 10), ("large", 1000)):
        with open(os.path.join(os.environ["OUTPUT_DIR"], name), "w") as file:
            file.write(text * size)
"""


def test_a_group_leaves_outputs_and_records_in_blob_storage(azure: Azure, run: Run, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    name = run.container(Role.OUTPUT)
    key = azure.storage_account.key
    assert key
    sas = generate_container_sas(
        azure.storage_account.name,
        name,
        account_key=key.get_secret_value(),
        permission=ContainerSasPermissions(read=True, create=True, write=True),
        expiry=datetime.now(timezone.utc) + timedelta(hours=1),
    )
    url = f"{azure.storage_account.endpoint}/{name}"
    with azure.blobs() as blobs:
        container = blobs.create_container(name)
        etags = [container.upload_blob(f"in/{each}", each).get_blob_properties().etag.strip('"') for each in "bc"]

        def listed(text: str, **more: Any) -> dict[str, Any]:
            md5 = hashlib.md5(text.encode()).hexdigest()
            return {"name": f"x/{text}", "size": 1, "md5": md5, "prefix": f"outputs/x/{text}", **more}

        files = [
            listed("a"),
            listed("b", url=f"{url}/in/b?{sas}", md5="", etag=etags[0]),
            listed("c", url=f"{url}/in/c?{sas}", md5="", etag=etags[0]),
            listed("d", url=f"{url}/in/d?{sas}"),
            listed("e"),
        ]
        (tmp_path / "bundle").write_bytes(json.dumps({"files": files}).encode() + b"\nae")

        def processed(**more: str) -> tuple[int, str]:
            environment = {
                "PATH": os.environ["PATH"],
                "GROUP_FILE": "bundle",
                "GROUP_MEMBERS": "0-4",
                "OUTPUT_INLINE": "10",
                "OUTPUT_URL": url,
                "OUTPUT_SAS_TOKEN": sas,
                "RECORD_SAS_TOKEN": sas,
                "RECORD_URL": f"{url}/groups/task1",
                **more,
            }
            line = [sys.executable, run_file.__file__, "script.py"]
            done = subprocess.run(line, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
            assert "sig=" not in done.stdout + done.stderr
            return done.returncode, done.stdout

        def records() -> list[list[FileRecord]]:
            names = [blob.name for blob in container.list_blobs(name_starts_with="groups/")]
            assert names == [f"groups/task1/{number:05}.json" for number in range(len(names))]
            return [FileRecord.parse_list(container.download_blob(each).readall()) for each in names]

        assert processed(BAD="e") == (73, "--- x/a\na\n--- x/b\nb\n--- x/e\ne\n")
        (first,) = records()
        assert [(each.name, each.record.exit_code, each.problem) for each in first] == [
            ("x/a", 0, ""),
            ("x/b", 0, ""),
            ("x/c", 73, "could not fetch"),
            ("x/d", 73, "could not fetch"),
            ("x/e", 3, ""),
        ]
        assert [each.stderr_end.partition("failed: ")[2] for each in first[2:4]] == [
            "HTTP 412 ConditionNotMet. The blob has changed since the run began.\n",
            "HTTP 404 BlobNotFound.\n",
        ]
        assert contents(first[0]) == {"small": b"a" * 10}
        assert container.download_blob("outputs/x/a/large").readall() == b"a" * 1000
        container.upload_blob("in/d", "d")
        files[2]["etag"] = etags[1]
        (tmp_path / "bundle").write_bytes(json.dumps({"files": files}).encode() + b"\nae")
        assert processed() == (0, "--- x/c\nc\n--- x/d\nd\n--- x/e\ne\n")
        assert [[each.name for each in group] for group in records()[1:]] == [["x/c", "x/d", "x/e"]]
