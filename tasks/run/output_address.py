"""The address of a folder of blobs in which outputs stay, and what no place for outputs can be."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from tasks.errors import InputError
from tasks.errors.local_files import expanded
from tasks.inputs.addresses import BlobAddress, is_blob_address
from tasks.inputs.files import Found
from tasks.inputs.globs import Glob

MANIFEST = "manifest"  # the name of the table of all outputs


def output_address(output: str) -> BlobAddress:
    """Raises InputError, naming the fix, for what is no place to put blobs."""
    if re.search(r"[?&]sig=", output):
        raise InputError(
            f"output {output.partition('?')[0]}: whoever sees the parameters could use its SAS; leave it out, for the "
            "run's own credential writes there"
        )
    address = BlobAddress.parse(output, "output")
    if not address.glob.is_plain:
        raise InputError(f"output {address}: a place for outputs has no wildcards; name a folder in a container")
    return address


def refuse_join_of_kept_outputs(join: object, output: str) -> None:
    """Raises InputError where outputs are to be joined on this machine and not downloaded to it."""
    if join and is_blob_address(output):
        raise InputError(
            f"output {output_address(output)}: outputs stay there and are not downloaded, so they cannot be joined; "
            "name a folder on this machine, or join nothing"
        )


def refuse_output_among_inputs(output: str, found: Found) -> None:
    """Raises InputError where the outputs of this run would be inputs of the next."""
    if is_blob_address(output):
        address = output_address(output)
        inside = next((str(each) for each in found.addresses if _holds(each, address)), "")
    else:
        folder = os.path.abspath(expanded("output folder", output))
        inside = next((each for each in found.searched if f"{folder}/".startswith(f"{each.rstrip('/')}/")), "")
    if inside:
        raise InputError(
            f"output {output}: it lies inside the inputs ({inside}), so that the next run would take the outputs for "
            "inputs; name an output outside of it, or fewer inputs"
        )


def _holds(inputs: BlobAddress, output: BlobAddress) -> bool:
    """Whether blobs below the output would be among the inputs."""
    if (inputs.account, inputs.container) != (output.account, output.container):
        return False
    if not inputs.glob.is_plain and "**" not in inputs.glob.text:
        return _may_match_below(inputs.glob.text.split("/"), output.glob.text.strip("/"))
    folder = inputs.glob.text if inputs.glob.is_plain else inputs.glob.folder
    folder = f"{folder.rstrip('/')}/" if folder else ""
    return f"{output.glob.text.strip('/')}/".startswith(folder)


def _may_match_below(pattern: Sequence[str], folder: str) -> bool:
    """Whether the segments of a glob without ** match what a run leaves in the folder: tables, folders of outputs."""
    depth = len(folder.split("/")) if folder else 0
    if len(pattern) <= depth or not Glob("/".join(pattern[:depth])).matches(folder):
        return False
    *folders, last = pattern[depth:]
    if not folders:
        return any(Glob(last).matches(f"{MANIFEST}{suffix}") for suffix in (".csv", ".parquet"))
    return not any(Glob(each).is_plain for each in folders)
