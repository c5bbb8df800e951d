"""Set up a node for a run, as its start task: packages and modules, in the directory that all tasks of the node share.

In the working directory: wheels.zip, modules.zip, or both. From them come

    env/      a virtual environment with the packages, without access to a network
    modules/  the modules

each a link to a directory named after the archive's content, and made when that directory is complete: a node that
starts again finds it and does nothing. Exits non-zero with the reason as the last line of stderr.

Standard library only, Python 3.8 or later; on an older one it says so.
"""

import glob
import hashlib
import os
import shutil
import subprocess
import sys
import time
import venv
import zipfile

VERSION_FILE = "python_version"  # in wheels.zip: that of the Python for which the wheels are, such as 3.12


class SetUpError(Exception):
    """Why the node cannot be set up."""


def main() -> None:
    os.umask(0o022)  # the user of the tasks is not that of the start task
    shared = os.environ["AZ_BATCH_NODE_SHARED_DIR"]
    try:
        if os.path.exists("wheels.zip"):
            use_python_of_wheels()
            place(shared, "env", "wheels.zip")
        if os.path.exists("modules.zip"):
            place(shared, "modules", "modules.zip")
    except (SetUpError, OSError, zipfile.BadZipFile, shutil.Error) as error:
        sys.exit(f"set_up_node.py: {error}")


def use_python_of_wheels() -> None:
    """Go on in the Python for which the wheels are, if this is another one."""
    with zipfile.ZipFile("wheels.zip") as archive:
        version = archive.read(VERSION_FILE).decode().strip()
    own = "{}.{}".format(*sys.version_info[:2])
    if version == own:
        return
    other = shutil.which("python" + version)
    if other is None:
        raise SetUpError(
            f"the packages are for Python {version}, but python3 of this node is {own}; "
            f'set node_python to "{own}", or use another image'
        )
    sys.stdout.flush()
    os.execv(other, [other, os.path.abspath(__file__)])


def place(shared: str, name: str, archive: str) -> None:
    """Make the archive's content what is at that name in the shared directory."""
    start = time.monotonic()
    directory = os.path.join(shared, name + "-" + content_hash(archive))
    link = os.path.join(shared, name)
    if os.path.islink(link) and os.readlink(link) == os.path.basename(directory):
        print(f"{name}: is there already", flush=True)
        return
    shutil.rmtree(directory, ignore_errors=True)  # what was left by a start task that was interrupted
    made = install(directory, archive) if name == "env" else unpack(directory, archive)
    new = link + ".new"
    if os.path.lexists(new):
        os.remove(new)
    os.symlink(os.path.basename(directory), new)
    os.replace(new, link)
    print(f"{name}: {made} in {time.monotonic() - start:.1f} s", flush=True)


def content_hash(path: str) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()[:16]


def unpack(directory: str, path: str) -> str:
    """Unpack the archive with the modes of its files."""
    with zipfile.ZipFile(path) as archive:
        archive.extractall(directory)
        for item in archive.infolist():
            os.chmod(os.path.join(directory, item.filename), item.external_attr >> 16)
        return f"{len(archive.infolist())} files unpacked"


def install(directory: str, path: str) -> str:
    """Create a virtual environment and install the wheels of the archive into it; returns what was installed."""
    shutil.rmtree("wheels", ignore_errors=True)
    unpack("wheels", path)
    wheels = sorted(glob.glob(os.path.join("wheels", "*.whl")))
    (pip,) = [wheel for wheel in wheels if os.path.basename(wheel).startswith("pip-")]
    venv.create(directory, symlinks=True)  # with_pip needs ensurepip, which the Python of Ubuntu and Debian lacks
    packages = [wheel for wheel in wheels if wheel != pip]
    options = ["--no-index", "--no-deps", "--no-cache-dir", "--disable-pip-version-check", "--no-input", "--quiet"]
    python = os.path.join(directory, "bin", "python")
    # A wheel of pip can be run as it is. No setting of the node applies: all that is needed is here.
    run([python, os.path.join(pip, "pip"), "--isolated", "install", *options, *packages])
    shutil.rmtree("wheels")
    names = [" ".join(os.path.basename(wheel).split("-")[:2]) for wheel in packages]
    return "{} installed for Python {}.{}.{}".format(", ".join(names), *sys.version_info[:3])


def run(command: "list[str]") -> None:
    result = subprocess.run(command, stderr=subprocess.PIPE, encoding="utf-8", errors="replace", check=False)
    sys.stderr.write(result.stderr)
    if result.returncode:
        errors = [line[len("ERROR: ") :] for line in result.stderr.splitlines() if line.startswith("ERROR: ")]
        reason = " ".join(errors) or f"pip ended with exit code {result.returncode}"
        raise SetUpError(f"the packages cannot be installed on this node: {reason}")


if __name__ == "__main__":
    main()
