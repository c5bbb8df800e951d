"""Any script over any files, end to end, and called in each of the ways that Python has."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from http.client import HTTPConnection
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

import pandas as pd
import pytest
from azure.storage.blob import ContainerClient
from prefect import flow

from flows.run_script import run_script
from tasks.accounts.clients import Azure
from tasks.accounts.sas import Signer
from tasks.containers import create_containers
from tasks.errors import InputError
from tasks.errors.responses import CheckedTransport
from tasks.errors.text import as_unicode
from tasks.files import upload_files
from tasks.inputs.blobs import all_inputs
from tasks.inputs.files import find_inputs
from tasks.inputs.names import original
from tasks.run.identity import Role, Run
from tasks.run.scripts import OUR_SCRIPTS
from tasks.run.settings import CleanUp, Disposal, PoolSettings
from tasks.run.uploads import Uploads
from tasks.script_results import ScriptResults
from tasks.tables.joins import Join, JoinFormat
from tests.support.accounts import clear
from tests.support.awkward_names import AWKWARD_NAMES
from tests.support.flow_runs import logged
from tests.support.runs import in_flow

pytestmark = pytest.mark.usefixtures("prefect_server")

call_run_script: Any = run_script  # it takes paths, which its types do not say

POOL = PoolSettings(slots_per_node=2)
MANY = 5_100  # more than a page of a list


def shell(folder: Path, text: str) -> Path:
    script = folder / "the script.sh"
    script.write_text(f"#!/bin/sh -e\n{text}\n")
    return script


def write(folder: Path, texts: dict[str, str]) -> Path:
    for name, text in texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def in_thread(call: Callable[[], ScriptResults]) -> ScriptResults:
    results: list[ScriptResults] = []
    thread = Thread(target=lambda: results.append(call()))
    thread.start()
    thread.join()
    return results[0]


def files_below(folder: Path) -> dict[str, str]:
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix != ".parquet"]
    return {str(path.relative_to(folder)): path.read_text() for path in paths}


# The outputs of each file, and the table of all. From a function under a running event loop, as in a notebook.

ROWS = """
echo "said of $INPUT_NAME"
mkdir "$OUTPUT_DIR/deep"
cp "$3" "$OUTPUT_DIR/deep/copy"
case "$(cat "$3")" in
  bad) echo "no rows" >&2; exit 3;;
  odd) printf 'a,b\\n1,2,3\\n' > "$OUTPUT_DIR/rows.csv";;
  *) printf 'option,text\\n%s %s,%s\\n' "$1" "$2" "$(cat "$3")" > "$OUTPUT_DIR/rows.csv";;
esac
"""


@pytest.fixture(scope="module")
def joined(azure_settings: dict[str, str], tmp_path_factory: pytest.TempPathFactory, prefect_server: None) -> Any:
    tmp_path = tmp_path_factory.mktemp("joined")
    texts = {"a/x.txt": "xa", "b/x.txt": "xb", "b/odd.txt": "odd", "bad.txt": "bad"}

    async def main() -> ScriptResults:
        return call_run_script(
            shell(tmp_path, ROWS),
            tmp_path / "in" / "**" / "*.txt",
            arguments=["--level", "{stem}"],
            join=Join(format=JoinFormat.CSV, pattern="rows.csv"),
            pool=POOL,
            output_folder=tmp_path / "results",
            allow_failures=2,
        )

    write(tmp_path / "in", texts)
    with pytest.MonkeyPatch.context() as environment:
        for name, value in azure_settings.items():
            environment.setenv(name, value)
        return asyncio.run(main())


def test_each_input_has_a_row_of_what_became_of_it(joined: ScriptResults) -> None:
    outcomes = joined.outcomes
    odd = joined.folder / "b" / "odd.txt" / "rows.csv"
    reason = f"left an output that cannot be read ({odd}: cannot be joined as csv: "
    assert outcomes.columns.tolist() == [
        *("file", "succeeded", "exit_code", "seconds", "node", "retries", "outputs", "bytes", "reason")
    ]
    assert outcomes[["file", "succeeded", "exit_code", "retries", "outputs", "bytes"]].values.tolist() == [
        ["a/x.txt", True, 0, 0, 2, 27],
        ["b/odd.txt", False, 0, 0, 0, 0],
        ["b/x.txt", True, 0, 0, 2, 27],
        ["bad.txt", False, 3, 1, 0, 0],
    ]
    assert outcomes["reason"].tolist()[::2] == ["", ""]
    assert outcomes["reason"][1].startswith(reason)
    assert outcomes["reason"][3] == "exited non-zero"
    assert ((outcomes["seconds"] > 0) & (outcomes["seconds"] < 60)).all()
    assert outcomes["node"].str.startswith("tvmps_").all()
    assert pd.read_parquet(joined.folder / "outcomes.parquet")["reason"].tolist() == outcomes["reason"].tolist()
    assert joined.missing == ("b/odd.txt", "bad.txt")


def test_outputs_of_equal_names_keep_the_tree_of_their_inputs(joined: ScriptResults) -> None:
    found = files_below(joined.folder)
    assert {name: text for name, text in found.items() if name.count("/") > 1 and not name.startswith("logs")} == {
        "a/x.txt/deep/copy": "xa",
        "a/x.txt/rows.csv": "option,text\n--level x,xa\n",
        "b/odd.txt/deep/copy": "odd",
        "b/odd.txt/rows.csv": "a,b\n1,2,3\n",  # malformed, but all there is to look at
        "b/x.txt/deep/copy": "xb",
        "b/x.txt/rows.csv": "option,text\n--level x,xb\n",
    }


def test_what_each_script_printed_is_kept(joined: ScriptResults) -> None:
    assert files_below(joined.folder / "logs") == {
        "a/x.txt/stdout.txt": "said of a/x.txt\n",
        "b/odd.txt/stderr.txt": "",
        "b/odd.txt/stdout.txt": "said of b/odd.txt\n",
        "b/x.txt/stdout.txt": "said of b/x.txt\n",
        "bad.txt/stderr.txt": "no rows\n",
        "bad.txt/stdout.txt": "said of bad.txt\n",
    }


def test_outputs_that_match_are_one_table(joined: ScriptResults) -> None:
    rows = [["a/x.txt", "--level x", "xa"], ["b/x.txt", "--level x", "xb"]]
    assert joined.table is not None
    assert joined.table.columns.tolist() == ["file", "option", "text"]
    assert joined.table.values.tolist() == rows
    assert pd.read_parquet(joined.folder / "table.parquet").values.tolist() == rows


# All names that a file system takes; then only what is new. From another flow, and from another thread.

PLAIN = [f"plain/{number:02}.txt" for number in range(46)]
NAMES = [*(f"{number % 3}/deep/{name}" for number, name in enumerate(AWKWARD_NAMES)), *PLAIN]


@pytest.fixture
def named(tmp_path: Path) -> dict[str, bytes]:
    """The contents of a file of each name, in the folder `in`."""
    contents = {name: f"the text of {number}".encode() for number, name in enumerate(NAMES)}
    for name, content in contents.items():
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return contents


def inputs_named(folder: Path) -> list[str]:
    """A list of all of them but the one that no line can hold."""
    paths = [str(folder / "in" / name).encode(errors="surrogateescape") for name in NAMES if "\n" not in name]
    (folder / "inputs.txt").write_bytes(b"\n".join(paths))
    return [f"@{folder / 'inputs.txt'}", str(folder / "in" / "*" / "deep" / "line*")]


def copies(results: ScriptResults) -> dict[str, bytes]:
    """The outputs by the names of their inputs, which the folders that they are in stand for."""
    paths = [path for folder in ("0", "1", "2", "plain") for path in (results.folder / folder).rglob("*")]
    found = {original(str(path.relative_to(results.folder))): path.read_bytes() for path in paths if path.is_file()}
    names = {path: path.rpartition("/")[0] for path in found}
    assert all(path.endswith(f"/{name.rpartition('/')[2]}") for path, name in names.items())  # the outputs' own names
    return {names[path]: content for path, content in found.items()}


def test_any_name_comes_back_and_then_only_what_is_new_is_processed(
    azure: Azure, tmp_path: Path, named: dict[str, bytes]
) -> None:
    script = shell(tmp_path, 'cp "$1" "$OUTPUT_DIR"')

    def run(clean_up: CleanUp = CleanUp(), *, skip_done: bool = False) -> ScriptResults:
        return call_run_script(
            script,
            inputs_named(tmp_path),
            pool=POOL,
            output_folder=tmp_path / "results",
            clean_up=clean_up,
            skip_done=skip_done,
        )

    @flow
    def other() -> ScriptResults:
        return run()

    first = other()
    assert sorted(first.outcomes["file"]) == sorted(map(as_unicode, named))
    assert first.outcomes["succeeded"].all()
    assert copies(first) == named

    changed = [NAMES[16], PLAIN[0], PLAIN[45]]  # the first is not UTF-8
    for name in changed:
        named[name] += b" is another"
        (tmp_path / "in" / name).write_bytes(named[name])
    with logged() as records:
        second = in_thread(lambda: run(CleanUp(job=Disposal.KEEP), skip_done=True))
    messages = [record.getMessage() for record in records]
    assert "Inputs: 97 skipped as done, 3 to process: 3 because its content has changed" in messages
    with azure.batch() as batch:
        assert len(list(batch.list_tasks(second.folder.name))) == 3
    clear(azure, second.folder.name)
    assert copies(second) == named
    outcomes = second.outcomes
    assert (len(outcomes), set(outcomes["succeeded"]), set(outcomes["outputs"])) == (100, {True}, {1})
    why = outcomes[outcomes["processed_because"] != ""]
    assert sorted(why["file"]) == sorted(map(as_unicode, changed))
    assert set(why["processed_because"]) == {"its content has changed"}
    manifest = pd.read_parquet(second.folder / "manifest.parquet")
    assert sorted(manifest["file"]) == sorted(map(as_unicode, named))
    assert manifest["size"].sum() == sum(map(len, named.values()))


# Blobs where they are, to blobs that stay. From a thread of an event loop.


@pytest.fixture
def container(azure: Azure) -> Iterator[ContainerClient]:
    with azure.blobs() as blobs:
        container = blobs.create_container(f"ours-{secrets.token_hex(6)}")
        yield container
        container.delete_container()


def address(container: ContainerClient, path: str) -> str:
    return f"az://{container.account_name}/{container.container_name}/{path}"


@pytest.fixture
def puts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths of the blobs that this process writes."""
    found: list[str] = []
    send = CheckedTransport.send

    def counted(self: CheckedTransport, request: Any, **options: Any) -> Any:
        if request.method == "PUT" and "restype=container" not in request.url:
            found.append(urlsplit(request.url).path)
        return send(self, request, **options)

    monkeypatch.setattr(CheckedTransport, "send", counted)
    return found


def texts_below(container: ContainerClient, prefix: str) -> dict[str, str]:
    names = container.list_blob_names(name_starts_with=prefix)
    return {
        name.removeprefix(prefix): container.download_blob(name).readall().decode(errors="replace") for name in names
    }


def test_blobs_are_read_in_place_and_outputs_stay(
    azure: Azure, container: ContainerClient, tmp_path: Path, puts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # which gets the tables
    script = shell(
        tmp_path, 'mkdir "$OUTPUT_DIR/d"; tr a-z A-Z < "$1" | tee "$OUTPUT_DIR/d/upper" > "$OUTPUT_DIR/same"'
    )
    for name in ("a.log", "b.log", "x/a.log", "x/manifest.csv", "other.txt"):
        container.upload_blob(f"in/{name}", f"text of {name}")
    output = address(container, "out/here")

    def run(**options: Any) -> ScriptResults:
        inputs = [address(container, "in/**/*.log"), address(container, "in/x/*.csv")]
        return call_run_script(script, inputs, pool=POOL, output_folder=output, **options)

    async def main() -> ScriptResults:
        return await asyncio.to_thread(run)

    puts.clear()
    first = asyncio.run(main())
    application = f"/{azure.storage_account.name}/{first.folder.name}-application"
    manifests = [f"{urlsplit(container.url).path}/out/here/manifest{suffix}" for suffix in (".csv", ".parquet")]
    assert sorted(puts) == sorted([*(f"{application}/{name}" for name in (*OUR_SCRIPTS, "the_script.sh")), *manifests])
    stored = texts_below(container, "out/here/")
    del stored["manifest.parquet"]
    manifest = stored.pop("manifest.csv").splitlines()
    names = ("a.log", "b.log", "x/a.log", "x/manifest.csv")
    upper = {f"{name}/{output}": f"TEXT OF {name.upper()}" for name in names for output in ("d/upper", "same")}
    assert stored == upper
    assert [line.split(",")[:3] for line in manifest] == [
        ["file", "output", "size"],
        *([name, output, f"{8 + len(name)}"] for name in names for output in ("same", "d/upper")),
    ]
    assert sorted(path.name for path in first.folder.iterdir()) == [
        *(".done.json", ".run.json", "manifest.csv", "manifest.parquet", "outcomes.csv", "outcomes.parquet")
    ]
    assert first.outcomes["outputs"].tolist() == [2, 2, 2, 2]

    container.upload_blob("in/a.log", "another text", overwrite=True)
    container.delete_blob("out/here/x/a.log/same")
    second = run(skip_done=True)
    assert second.outcomes[["file", "succeeded", "outputs", "processed_because"]].values.tolist() == [
        ["a.log", True, 2, "its content has changed"],
        ["b.log", True, 2, ""],
        ["x/a.log", True, 2, "its outputs are gone or have changed"],
        ["x/manifest.csv", True, 2, ""],
    ]
    stored = texts_below(container, "out/here/")
    assert len(stored.pop("manifest.csv").splitlines()) == 9
    del stored["manifest.parquet"]
    assert stored == {**upper, "a.log/d/upper": "ANOTHER TEXT", "a.log/same": "ANOTHER TEXT"}


def test_a_manifest_of_somebody_else_is_refused_before_anything_exists(
    azure: Azure, container: ContainerClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    container.upload_blob("out/manifest.parquet", b"what nobody knows")
    inputs = write(tmp_path / "in", {"a.txt": "a"})
    with pytest.raises(InputError, match=r"the blob out/manifest\.parquet is not the manifest that a run writes"):
        call_run_script(shell(tmp_path, "true"), inputs, output_folder=address(container, "out"))
    with azure.blobs() as blobs:
        assert not list(blobs.list_containers(name_starts_with="run-script-"))


def make_blobs(azure: Azure, container: ContainerClient, count: int) -> None:
    """Empty blobs, faster than the SDK makes them."""
    url = urlsplit(container.url)
    token = Signer(azure, datetime.now(timezone.utc) + timedelta(hours=1)).write_token(str(container.container_name))

    def make(first: int) -> None:
        connection = HTTPConnection(str(url.hostname), url.port)
        for number in range(first, count, 4):
            headers = {"x-ms-blob-type": "BlockBlob", "Content-Length": "0"}
            connection.request("PUT", f"{url.path}/{number % 7}/{number:05}.log?{token}", b"", headers)
            with connection.getresponse() as response:
                assert response.status == 201
                response.read()
        connection.close()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(make, range(4)))


def test_many_blobs_are_listed_and_none_is_uploaded(
    azure: Azure, container: ContainerClient, run: Run, puts: list[str]
) -> None:
    make_blobs(azure, container, MANY)
    puts.clear()

    def steps() -> Uploads:
        files = all_inputs(azure, find_inputs([address(container, "**/*.log")]), run.expires)
        create_containers(azure, run)
        return upload_files(azure, run, files, {})

    uploads = in_flow(steps)
    assert len({file.name for file in uploads.inputs}) == MANY
    assert puts == []
    with azure.blobs() as blobs:
        assert not list(blobs.get_container_client(run.container(Role.INPUT)).list_blobs())
    last = uploads.inputs[-1]
    assert last.sas_url.startswith(f"{container.url}/{last.name}?")
