"""Where outputs may stay, and that they are never among the inputs of the next run."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.errors import InputError
from tasks.inputs.files import find_inputs
from tasks.run.output_address import output_address, refuse_join_of_kept_outputs, refuse_output_among_inputs
from tasks.tables.joins import Join, JoinFormat

AZURE = "https://account.blob.core.windows.net"
FORMS = "write https://<account>.blob.core.windows.net/<container>/<prefix> or az://<account>/<container>/<prefix>"


@pytest.mark.parametrize(
    ("output", "container", "prefix"),
    [
        ("az://account/results", "results", ""),
        ("az://account/results/", "results", ""),
        ("az://account/results/a/b/", "results", "a/b/"),
        (f"{AZURE}/results/a%20b", "results", "a b"),
        ("http://127.0.0.1:10000/devstore/results/a", "results", "a"),
    ],
)
def test_a_folder_in_a_container_is_a_place_for_outputs(output: str, container: str, prefix: str) -> None:
    address = output_address(output)
    assert (address.container, address.glob.text) == (container, prefix)


@pytest.mark.parametrize(
    ("output", "said"),
    [
        (
            f"{AZURE}/results/x?sv=2024-01-01&se=2030-01-01T00:00:00Z&sr=c&sp=rl&sig=secret",
            f"output {AZURE}/results/x: whoever sees the parameters could use its SAS; leave it out, for the "
            "run's own credential writes there",
        ),
        (
            "az://account/results/*",
            "output az://account/results/*: a place for outputs has no wildcards; name a folder in a container",
        ),
        (
            "az://account/results/run?",
            "output az://account/results/run?: a place for outputs has no wildcards; name a folder in a container",
        ),
        ("s3://bucket/x", f"output s3://bucket/x: s3:// is no address of Blob Storage; {FORMS}"),
        (
            "az://account/Results",
            "output az://account/Results: 'Results' is not the name of a container, which has 3 to 63 lower-case "
            f"letters, digits and single dashes; {FORMS}",
        ),
    ],
)
def test_what_is_no_place_for_outputs_is_refused(output: str, said: str) -> None:
    with pytest.raises(InputError) as error:
        output_address(output)
    assert str(error.value) == said


def test_a_sas_to_write_is_refused_and_not_repeated() -> None:
    with pytest.raises(InputError) as error:
        output_address(f"{AZURE}/results/x?sv=2024-01-01&se=2030-01-01T00:00:00Z&sr=c&sp=rwdl&sig=secret")
    assert "secret" not in str(error.value)
    assert str(error.value).startswith(f"output {AZURE}/results/x: ")


def is_among(output: str, *inputs: str) -> bool:
    try:
        refuse_output_among_inputs(output, find_inputs(inputs))
    except InputError as error:
        return str(error).startswith(f"output {output}: it lies inside the inputs (")
    return False


@pytest.mark.parametrize(
    ("inputs", "output"),
    [
        ("az://account/c01/", "az://account/c01/out"),
        ("az://account/c01", "az://account/c01"),
        ("az://account/c01/logs", "az://account/c01/logs/out/"),
        ("az://account/c01/logs/", "az://account/c01/logs"),
        ("az://account/c01/logs/", f"{AZURE}/c01/logs/out"),
        ("az://account/c01/**/*.log", "az://account/c01/out"),
        ("az://account/c01/logs/**", "az://account/c01/logs/2026/out"),
        ("az://account/c01/lo*/**/x", "az://account/c01/out"),
        ("az://account/c01/*", "az://account/c01"),  # which gets the manifest
        ("az://account/c01/logs/*.csv", "az://account/c01/logs"),
        ("az://account/c01/*/*", "az://account/c01"),
        ("az://account/c01/*/*/*.csv", "az://account/c01/out"),
    ],
)
def test_an_output_whose_blobs_would_be_inputs_is_refused(inputs: str, output: str) -> None:
    assert is_among(output, inputs)


@pytest.mark.parametrize(
    ("inputs", "output"),
    [
        ("az://account/c01/logs/", "az://account/c01/out"),
        ("az://account/c01/logs/", "az://account/c01/logs-out"),
        ("az://account/c01/logs/", "az://account/c02/logs"),
        ("az://account/c01/logs/", "az://other/c01/logs"),
        ("az://account/c01/logs/**", "az://account/c01"),  # whose manifest is not below logs
        ("az://account/c01/logs/*.txt", "az://account/c01/logs"),
        ("az://account/c01/logs/*.txt", "az://account/c01/logs/out"),
        ("az://account/c01/*/*.log", "az://account/c01/out"),
        ("az://account/c01/*/raw/*.csv", "az://account/c01/out"),
    ],
)
def test_an_output_beside_the_blobs_is_accepted(inputs: str, output: str) -> None:
    assert not is_among(output, inputs)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "logs" / "2026").mkdir(parents=True)
    (tmp_path / "logs" / "2026" / "a.log").write_text("a")
    (tmp_path / "logs" / "b.log").write_text("b")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("output", ["logs/out", "logs", "./logs/../logs/x", "~/logs/out"])
def test_an_output_folder_in_which_a_glob_looks_is_refused(output: str, folder: Path) -> None:
    assert is_among(output, "logs/**/*.log")
    assert is_among(str((folder / output).absolute()) if output[0] != "~" else output, "~/logs/**/*.log")


@pytest.mark.parametrize("output", ["results", "logs-out", "az://account/c01/logs", ".."])
def test_an_output_folder_in_which_no_glob_looks_is_accepted(output: str, folder: Path) -> None:
    assert not is_among(output, "logs/**/*.log")


@pytest.mark.parametrize("inputs", ["logs", "logs/*.log", "logs/*/*.log", "logs/b.log"])
def test_a_folder_of_inputs_may_hold_the_results_where_none_looks_below(inputs: str, folder: Path) -> None:
    assert not is_among("logs", inputs)


def test_an_output_folder_in_an_unknown_home_is_refused(folder: Path) -> None:
    with pytest.raises(InputError, match=r"^output folder '~nobody-here/x': there is no such home directory"):
        refuse_output_among_inputs("~nobody-here/x", find_inputs(["logs"]))


def test_outputs_that_stay_in_blobs_cannot_be_joined() -> None:
    join = Join(format=JoinFormat.CSV, pattern="*.csv")
    with pytest.raises(InputError, match=r"^output az://account/results/x: outputs stay there and are not downloaded"):
        refuse_join_of_kept_outputs(join, "az://account/results/x")
    refuse_join_of_kept_outputs(None, "az://account/results/x")
    refuse_join_of_kept_outputs(join, "results")
