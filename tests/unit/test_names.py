"""Names of input files as blob names and as folder names."""

from __future__ import annotations

import os
import random
import unicodedata

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tasks.inputs.names import blob_name, local_paths, original
from tests.support.awkward_names import AWKWARD_NAMES

RESERVED = ("summary.csv", "logs", "manifest.csv")
# Few characters, so that names meet; bytes, as they are in a file system.
_SEGMENT = st.lists(
    st.sampled_from(
        [*(bytes([each]) for each in b"aAbl.o%2Fg s\\\x01~"), *map(str.encode, "éÉßK\u212a"), b"e\xcc\x81", b"\xff"]
    ),
    max_size=4,
).map(b"".join)
_NAMES = st.lists(_SEGMENT, min_size=1, max_size=4).map(b"/".join).map(os.fsdecode).filter(bool)
_ANY = st.binary(min_size=1, max_size=60).map(os.fsdecode)


def key(path: str) -> str:
    """What is equal for paths that are one where case and normalisation do not count."""
    return unicodedata.normalize("NFD", unicodedata.normalize("NFD", path).casefold())


@pytest.mark.parametrize(
    "name",
    [
        "a.txt",
        "2026/11/Übung 日本.txt",
        "👩‍👩‍👧.txt",
        "e\u0301.txt",
        'it\'s "q" #?&+=;,@!$()[]{}^`|<>*:~.txt',
        ".bashrc",
        " a",
        "a..b",
    ],
)
def test_an_ordinary_name_stays_as_it_is(name: str) -> None:
    assert blob_name(name) == name


@pytest.mark.parametrize(
    ("name", "encoded"),
    [
        ("100%.txt", "100%25.txt"),
        ("a%2Fb", "a%252Fb"),
        ("back\\slash.txt", "back%5Cslash.txt"),
        ("bell\a tab\t line\n del\x7f", "bell%07 tab%09 line%0A del%7F"),
        ("c1\x81", "c1%C2%81"),
        ("private\ue000\U000f0000", "private%EE%80%80%F3%B0%80%80"),
        ("none\ufffd\uffff\ufdd0\U0001ffff", "none%EF%BF%BD%EF%BF%BF%EF%B7%90%F0%9F%BF%BF"),
        ("caf\udce9.txt", "caf%E9.txt"),
        ("dot.", "dot%2E"),
        ("dir./space /x", "dir%2E/space%20/x"),
        ("./../...", "%2E/.%2E/..%2E"),
        ("a//b", "a/%2Fb"),
        ("/a", "%2Fa"),
        ("a/", "a%2F"),
        ("//", "%2F%2F"),
    ],
)
def test_what_azure_refuses_or_clients_change_is_encoded(name: str, encoded: str) -> None:
    assert blob_name(name) == encoded
    assert original(encoded) == name


@given(name=_NAMES | _ANY)
@example(name="a//b/")
def test_a_name_can_be_had_back_from_its_blob(name: str) -> None:
    assert original(blob_name(name)) == name


@given(name=_NAMES | _ANY | st.binary(min_size=1, max_size=3000).map(os.fsdecode))
def test_each_blob_name_keeps_azures_rules(name: str) -> None:
    encoded = blob_name(name)
    segments = encoded.split("/")
    assert 1 <= len(encoded.encode("utf-16-le")) // 2 <= 700
    assert len(segments) <= 50
    assert all(segment and segment[-1] not in ". \\" and len(segment) <= 255 for segment in segments)
    assert not {unicodedata.category(character) for character in encoded} & {"Cc", "Co", "Cs"}


def test_slashes_beyond_fifty_segments_are_encoded() -> None:
    name = "/".join(map(str, range(60)))
    assert blob_name(name).split("/")[-1] == "%2F".join(map(str, range(49, 60)))
    assert original(blob_name(name)) == name


@pytest.mark.parametrize("name", ["\x01" * 100, "a/" * 400 + "b", "/".join(["x" * 255] * 5), "👩" * 200])
def test_a_name_that_is_too_long_becomes_a_digest_of_its_own(name: str) -> None:
    encoded, other = blob_name(name + "1"), blob_name(name + "2")
    assert encoded != other
    assert len(encoded) <= 700
    with pytest.raises(ValueError, match="is the digest of a name"):
        original(encoded)


def test_only_the_segment_that_is_too_long_is_a_digest() -> None:
    first, middle, last = blob_name("a/" + "é\x01" * 100 + "/c").split("/")
    assert (first, last) == ("a", "c")
    assert middle.startswith("é%01é%01")
    assert "%_" in middle


def test_a_name_of_700_characters_is_no_digest() -> None:
    name = "/".join(["x" * 99] * 7)
    assert blob_name(name) == name
    assert "%_" in blob_name(name + "xx")


def test_ordinary_names_are_their_own_folders() -> None:
    names = ["a.txt", "b/a.txt", "Ü/日本.txt"]
    assert local_paths(names, RESERVED) == {name: name for name in names}


def test_names_that_differ_in_case_or_normalisation_stay_apart() -> None:
    assert local_paths(["A.txt", "a.txt", "\xe9", "e\u0301", "B"]) == {
        "A.txt": "%41.txt",
        "a.txt": "a.txt",
        "\xe9": "%C3%A9",
        "e\u0301": "e%CC%81",
        "B": "B",
    }


def test_a_name_is_not_in_the_folder_of_another() -> None:
    assert local_paths(["a", "a/b", "A/c", "a/b/d", "ab/c"]) == {
        "a": "a",
        "a/b": "a%2Fb",
        "A/c": "A%2Fc",
        "a/b/d": "a%2Fb%2Fd",
        "ab/c": "ab/c",
    }


def test_what_a_run_itself_writes_is_no_name_of_a_folder() -> None:
    assert local_paths([".counted.json", "logs/x", "Summary.csv", "\u017fummary.csv", "logs2"], RESERVED) == {
        ".counted.json": "%2Ecounted.json",
        "logs/x": "%6Cogs/x",
        "Summary.csv": "%53ummary.csv",
        "\u017fummary.csv": "%C5%BFummary.csv",
        "logs2": "logs2",
    }


def test_a_segment_of_more_than_255_bytes_is_a_digest() -> None:
    long = "日" * 100
    path = local_paths([f"a/{long}"])[f"a/{long}"]
    assert path.startswith("a/日日")
    assert len(path.encode()) < 255


@settings(max_examples=300)
@given(names=st.lists(_NAMES, unique=True, min_size=2, max_size=8))
def test_each_name_has_a_folder_of_its_own_in_any_order(names: list[str]) -> None:
    paths = local_paths(names, RESERVED)
    assert [original(paths[name]) for name in names] == names
    assert local_paths(random.sample(names, len(names)), RESERVED) == paths
    keys = {key(path) for path in paths.values()}
    assert len(keys) == len(names)
    for path in keys:
        first, *others = path.split("/")
        assert first not in RESERVED
        assert not first.startswith(".")
        assert all("/".join([first, *others[:at]]) not in keys for at in range(len(others)))


def test_the_awkward_names_are_forty_and_stay_apart() -> None:
    assert len(AWKWARD_NAMES) >= 40
    paths = local_paths(AWKWARD_NAMES, RESERVED)
    assert [original(paths[name]) for name in AWKWARD_NAMES] == list(AWKWARD_NAMES)
    assert len({key(path) for path in paths.values()}) == len(AWKWARD_NAMES)
