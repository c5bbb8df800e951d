#!/usr/bin/env python3
"""Find the most frequent words of one text file and store them as a blob: the work of one Azure Batch task.

Runs on Python 3.8 and later with nothing but the standard library, so a node can run it as soon as it boots.
Memory is bounded: the file is read in blocks, one process per core of the task slot counts tokens, and tables
that outgrow their share move to hash partitions in the working directory. The answer is exact, and the same
for every block size, number of processes and share of memory. Text in another encoding than UTF-8 is written to
the working directory as UTF-8 first; a file that is not text is refused.
"""

from __future__ import annotations

import argparse
import base64
import codecs
import contextlib
import functools
import gc
import hashlib
import heapq
import http.client
import io
import itertools
import marshal
import math
import operator
import os
import random
import re
import string
import sys
import tempfile
import time
import traceback
import unicodedata
import urllib.error
import urllib.parse
import urllib.request
from collections import Counter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import BinaryIO

    # How often a word occurs, negated, and where first (block number << 32 | order of appearance in the
    # block): ranks sort as the answer does.
    Rank = tuple[int, int]
    Record = tuple[str, Rank]
    # The words with their counts, and how many bytes were no valid text and were replaced.
    Answer = tuple[list[tuple[str, int]], int]

BLOCK_BYTES = 256 << 10  # small enough for a core's cache to hold the block's tokens
TABLE_BYTES = 64 << 20  # per process: three quarters for raw tokens, one for words
SMALL_FILE_BYTES = 8 << 20  # below this, forking costs more than it saves
FANOUT = 128  # hash partitions per level
DEEPEST = 8  # levels of partitions before the 64-bit hash has no fresh bits left
TOKEN_OVERHEAD, WORD_OVERHEAD = 80, 160  # bytes per table entry beside the string itself

SCAN_BYTES = 8 << 10
# What str.split() splits at, as UTF-8. Each pattern starts with a byte that never continues a character,
# so wherever it occurs, in valid text or not, a decoder sees white space: text may be cut there.
SPACE = re.compile(
    rb"[\t-\r\x1c-\x20]|\xc2[\x85\xa0]|\xe1\x9a\x80|\xe2(?:\x80[\x80-\x8a\xa8\xa9\xaf]|\x81\x9f)|\xe3\x80\x80"
)
BOM = codecs.BOM_UTF8

LOOK_BYTES = 64 << 10  # of the start of a file, by which its encoding is found
# UTF-32 first: its little-endian mark begins with that of UTF-16.
MARKS = {
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    BOM: "utf-8",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
FORMATS = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\0": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"7z\xbc\xaf\x27\x1c": "7z",
    b"PK\x03\x04": "zip",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"GIF87a": "GIF",
    b"GIF89a": "GIF",
    b"%PDF-": "PDF",
    b"\x7fELF": "ELF",
}
# Not in these: white space, BEL, BS and ESC, which terminals put into logs, and \x1c to \x1f, which separate fields.
IF_TEXT = "if it is text, name its encoding with --encoding"
CONTROL = re.compile("[\0-\x06\x0e-\x1a\x7f-\x84\x86-\x9f]")

STORAGE_VERSION = "2021-08-06"
UPLOAD_TIMEOUT = 60.0  # seconds of silence
UPLOAD_ATTEMPTS = 5
LONGEST_PAUSE = 60.0  # seconds
UPLOAD_FAILED = 74  # the exit code; EX_IOERR of sysexits.h
NOT_TEXT = 65  # the exit code; EX_DATAERR of sysexits.h
ADVICE = {
    403: "The SAS token has expired, or does not permit create and write in this container.",
    404: "The container or the account does not exist; check --storageaccount and --storagecontainer.",
}


# --- what a file is ---------------------------------------------------------------------------------------


class NotText(Exception):
    """The file is binary; its words would be garbage."""


def encoding_of(path: str, named: str = "") -> str:
    """The encoding: by byte-order mark, else the one named, else by where NUL bytes are, else UTF-8.

    Raises NotText for binary files.
    """
    with open(path, "rb") as file:
        start = file.read(LOOK_BYTES)
    for magic, name in FORMATS.items():
        if start.startswith(magic):
            raise NotText(f"it starts as a {name} file does")
    marked = next((name for mark, name in MARKS.items() if start.startswith(mark)), "")
    encoding = marked or with_byte_order(named, start)
    if not encoding and b"\0" in start:
        encoding = by_nul_bytes(start)
        if not encoding:
            raise NotText(f"it holds NUL bytes, and is neither UTF-16 nor UTF-32; {IF_TEXT}")
    encoding = encoding or "utf-8"
    reason = why_binary(start, encoding)
    if reason:
        raise NotText(f"{reason}; {IF_TEXT}")
    return encoding


def with_byte_order(named: str, start: bytes) -> str:
    """The encoding named; of UTF-16 and UTF-32 the byte order that NUL bytes show, else little-endian."""
    name = codecs.lookup(named).name if named else ""
    if name not in ("utf-16", "utf-32"):
        return name
    found = by_nul_bytes(start)
    return found if found.startswith(name) else name + "-le"


def by_nul_bytes(start: bytes) -> str:
    """UTF-32 or UTF-16 in one of their byte orders, if the start is text in it; else empty."""
    little, big = start[1::2].count(0), start[::2].count(0)  # in UTF-16, the high bytes of ASCII are NUL
    encodings = ["utf-32-le", "utf-32-be"]
    # Where NUL bytes are few, they may as well be strays in ASCII or UTF-8.
    if max(little, big) * 8 >= len(start) or why_binary(start.replace(b"\0", b""), "utf-8"):
        encodings.append("utf-16-le" if little > big else "utf-16-be")
    for encoding in encodings:
        try:
            text = codecs.getincrementaldecoder(encoding)().decode(start, len(start) < LOOK_BYTES)
        except UnicodeDecodeError:
            continue
        odd = sum(unicodedata.category(char) in ("Cn", "Co") for char in text) + len(CONTROL.findall(text))
        if text and "\0" not in text and odd * 20 <= len(text):
            return encoding
    return ""


def why_binary(start: bytes, encoding: str) -> str:
    """The reason where there are too many control characters for a text; fewer will do where many bytes are none."""
    decoder = Decoder(encoding)
    text = decoder.decode(start)
    controls = len(CONTROL.findall(text)) / max(1, len(text))
    undecodable = decoder.replaced / max(1, len(start))
    if controls > 0.2 or (controls > 0.01 and undecodable > 0.1):
        return f"{controls:.0%} of its characters are control characters, {undecodable:.0%} of its bytes not {encoding}"
    return ""


class Decoder:
    """Decodes a stream, and counts the bytes that had to be replaced."""

    def __init__(self, encoding: str) -> None:
        self.replaced = 0
        handler = f"top_words.{id(self)}"
        codecs.register_error(handler, self._replace)
        self.decode = codecs.getincrementaldecoder(encoding)(handler).decode

    def _replace(self, error: UnicodeError) -> tuple[str, int]:
        assert isinstance(error, UnicodeDecodeError)
        self.replaced += error.end - error.start
        return "\ufffd", error.end


def as_utf8(path: str, encoding: str, target: str) -> int:
    """Write the text to `target` as UTF-8; returns how many bytes had to be replaced."""
    decoder = Decoder(encoding)
    with open(path, "rb") as source, open(target, "wb") as file:
        for data in iter(lambda: source.read(1 << 20), b""):
            file.write(decoder.decode(data).encode("utf-8", "replace"))
        file.write(decoder.decode(b"", True).encode("utf-8", "replace"))
    return decoder.replaced


# --- counting ---------------------------------------------------------------------------------------------


def cut(file: BinaryIO, start: int, limit: float) -> int | None:
    """The first white space from `start` on, or the end of the file; None if it is not before `limit`."""
    while start < limit:
        file.seek(start)
        data = file.read(SCAN_BYTES + 2)  # a space that starts in the last byte may be two bytes longer
        space = SPACE.search(data)
        if space and space.start() < SCAN_BYTES:
            return start + space.start()
        if len(data) <= SCAN_BYTES:
            return start + len(data)
        start += SCAN_BYTES
    return None


def read_block(file: BinaryIO, block: int, size: int) -> bytes:
    """From the first white space in the block to the first one after it; empty inside a longer token."""
    start = cut(file, block * size, (block + 1) * size) if block else 0
    if start is None:
        return b""
    stop = cut(file, (block + 1) * size, math.inf)
    file.seek(start)
    data = file.read(stop - start if stop else -1)
    return data if block or not data.startswith(BOM) else data[len(BOM) :]


def decode(data: bytes) -> tuple[str, int]:
    """The text of a block, and how many bytes had to be replaced."""
    try:
        return data.decode(), 0
    except UnicodeDecodeError:
        text = data.decode("utf-8", "replace")
        replacements = text.count("\ufffd") - data.count(b"\xef\xbf\xbd")  # the latter were there before
        return text, len(data) - (len(text.encode()) - 3 * replacements)


def tally(
    path: str, blocks: Iterable[int], block_bytes: int, limit: int, note: Callable[[int], None]
) -> Iterator[Record]:
    """Records of the words in these blocks, in order of appearance; one word may come several times.

    `note` gets the number of replaced bytes of each block that has some.
    """
    tokens: Counter[str] = Counter()
    fresh: list[tuple[int, int]] = []  # (block, number of tokens first seen in it)
    used = 0
    with open(path, "rb") as file:
        for block in blocks:
            before = len(tokens)
            text, replaced = decode(read_block(file, block, block_bytes))
            if replaced:
                note(replaced)
            tokens.update(text.split())
            new = len(tokens) - before
            fresh.append((block, new))
            used += new * TOKEN_OVERHEAD + sum(map(sys.getsizeof, itertools.islice(reversed(tokens), new)))
            if used > limit:
                yield from strip(tokens, fresh)
                tokens, fresh, used = Counter(), [], 0
    yield from strip(tokens, fresh)


def strip(tokens: Counter[str], fresh: list[tuple[int, int]]) -> Iterator[Record]:
    items = iter(tokens.items())  # a dict remembers insertion order, here the order of appearance
    for block, new in fresh:
        for order, (token, count) in enumerate(itertools.islice(items, new), block << 32):
            word = token.strip(string.punctuation)
            if word:
                yield word, (-count, order)


def fold(records: Iterable[Record], folder: str, level: int, limit: int) -> dict[str, Rank]:
    """Add up the records per word; a table over `limit` bytes moves to `folder`, the last one is returned."""
    if level == 0:
        limit //= 4  # the raw tokens hold the other three quarters
    table: dict[str, Rank] = {}
    used = 0
    for word, rank in records:
        known = table.get(word)
        if known:
            table[word] = known[0] + rank[0], min(known[1], rank[1])
            continue
        table[word] = rank
        used += sys.getsizeof(word) + WORD_OVERHEAD
        if used > limit and level < DEEPEST:
            spill(table, folder, level)
            table, used = {}, 0
    return table


def spill(table: dict[str, Rank], folder: str, level: int) -> None:
    """Append the table to `folder`, one file per hash partition; forked processes share the hash."""
    os.makedirs(folder, exist_ok=True)
    parts: list[list[Record]] = [[] for _ in range(FANOUT)]
    for record in table.items():
        parts[(hash(record[0]) >> 7 * level) % FANOUT].append(record)
    for number, part in enumerate(parts):
        if part:
            save(part, folder, number)


def save(part: list[Record], folder: str, number: int) -> None:
    data = marshal.dumps(part, 2)  # version 2 looks for no shared references: there are none
    with open(os.path.join(folder, str(number)), "ab") as file:
        file.write(len(data).to_bytes(8, "little") + data)


def load(folder: str, number: int) -> Iterator[Record]:
    path = os.path.join(folder, str(number))
    if os.path.exists(path):
        with open(path, "rb") as file:
            # marshal.load() would read from the file object by object
            for size in iter(lambda: file.read(8), b""):
                yield from marshal.loads(file.read(int.from_bytes(size, "little")))


def best(records: Iterable[Record], wanted: int) -> list[Record]:
    return heapq.nsmallest(wanted, records, key=operator.itemgetter(1))


def top(records: Iterable[Record], wanted: int, folder: str, level: int, limit: int) -> list[Record]:
    """The best of any number of records: partitions within partitions until each fits in `limit`."""
    table = fold(records, folder, level, limit)
    if not os.path.exists(folder):
        return best(table.items(), wanted)
    spill(table, folder, level)
    del table
    parts = (
        top(load(folder, part), wanted, os.path.join(folder, f"{part}.d"), level + 1, limit) for part in range(FANOUT)
    )
    return best(itertools.chain.from_iterable(parts), wanted)


def share(workers: int, items: int, work: Callable[[int, Iterator[int]], None]) -> None:
    """Fork processes that run work(worker, numbers) and draw the numbers below `items` from one pipe."""
    receive, send = os.pipe()
    # A read of 8 bytes from a pipe that only ever gets 8 at a time is atomic: each number reaches one worker.
    numbers = map(functools.partial(int.from_bytes, byteorder="little"), iter(lambda: os.read(receive, 8), b""))
    children = []
    for worker in range(workers):
        child = os.fork()
        if not child:
            os.close(send)  # or the pipe would never end
            run_and_exit(functools.partial(work, worker, numbers))
        children.append(child)
    os.close(receive)
    try:
        for item in range(items):
            os.write(send, item.to_bytes(8, "little"))
    except BrokenPipeError:
        pass  # every worker has died; their statuses tell
    finally:
        os.close(send)
    statuses = [os.waitpid(child, 0)[1] for child in children]
    failed = [status >> 8 or -(status & 127) for status in statuses if status]  # exit codes, or minus the signal
    if failed:
        raise RuntimeError(f"{len(failed)} of {workers} counting processes failed (exit codes {failed})")


def run_and_exit(work: Callable[[], None]) -> None:
    """The whole life of a forked process; nothing of its parent's is flushed or cleaned up a second time."""
    status = 1
    try:
        work()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def top_words(
    path: str,
    wanted: int,
    *,
    workers: int = 1,
    block_bytes: int = BLOCK_BYTES,
    table_bytes: int = TABLE_BYTES,
) -> Answer:
    """The `wanted` most frequent words of a UTF-8 file with their counts; ties in order of first appearance.

    Words are what str.split() yields, without `string.punctuation` at both ends; case is kept.
    """
    blocks = -(-os.path.getsize(path) // block_bytes)
    with tempfile.TemporaryDirectory(prefix=".top_words-", dir=".") as scratch:
        replaced = os.path.join(scratch, "replaced")

        def note(number: int) -> None:
            with open(replaced, "ab") as file:  # of every process; so few bytes are appended at once
                file.write(number.to_bytes(8, "little"))

        def records(numbers: Iterable[int]) -> Iterator[Record]:
            return tally(path, numbers, block_bytes, table_bytes * 3 // 4, note)

        def count(worker: int, numbers: Iterator[int]) -> None:
            folder = os.path.join(scratch, f"worker{worker}")
            spill(fold(records(numbers), folder, 0, table_bytes), folder, 0)

        def merge(_: int, parts: Iterator[int]) -> None:
            folders = [os.path.join(scratch, f"worker{worker}") for worker in range(workers)]
            for part in parts:
                everyones = itertools.chain.from_iterable(load(folder, part) for folder in folders)
                found = top(everyones, wanted, os.path.join(scratch, f"{part}.d"), 1, table_bytes)
                save(found, scratch, part)

        if workers == 1:
            found = top(records(range(blocks)), wanted, os.path.join(scratch, "all"), 0, table_bytes)
        else:
            share(workers, blocks, count)
            share(workers, FANOUT, merge)
            found = best(itertools.chain.from_iterable(load(scratch, part) for part in range(FANOUT)), wanted)
        return [(word, -minus_count) for word, (minus_count, _) in found], total(replaced)


def total(path: str) -> int:
    """The sum of the numbers in the file, 8 bytes each; 0 where there is none."""
    if not os.path.exists(path):
        return 0
    with open(path, "rb") as file:
        return sum(int.from_bytes(number, "little") for number in iter(lambda: file.read(8), b""))


def output_name(path: str) -> str:
    """<stem>_OUTPUT<ext>: in OUTPUT_DIR, where that is set, else beside the input."""
    stem, extension = os.path.splitext(path)
    folder = os.environ.get("OUTPUT_DIR")
    if folder:
        stem = os.path.join(folder, os.path.basename(stem))
    return f"{stem}_OUTPUT{extension}"


def report(words: list[tuple[str, int]], encoding: str = "utf-8", replaced: int = 0) -> str:
    """The output; its last lines, on encoding and replaced bytes, only where they are not UTF-8 and none."""
    rule = "-" * 30
    lines = ["Word\tCount", rule, *(f"{word}:\t{count}" for word, count in words), rule]
    for label, name in (("Node: ", "NODE"), ("Task: ", "TASK"), ("Job:  ", "JOB"), ("Pool: ", "POOL")):
        lines.append(label + os.environ.get(f"AZ_BATCH_{name}_ID", ""))
    lines += [f"Encoding: {encoding}"] if encoding != "utf-8" else []
    lines += [f"Replaced bytes: {replaced}"] if replaced else []
    return "\n".join(lines) + "\n"


# --- uploading --------------------------------------------------------------------------------------------


def blob_url(account: str, container: str, path: str) -> str:
    """The blob's address, without SAS; its name is the file's, whatever directory the file is in."""
    endpoint = account.rstrip("/") if "://" in account else f"https://{account}.blob.core.windows.net"
    name = os.fsencode(os.path.basename(path)).decode("utf-8", "replace")
    return "/".join([endpoint, urllib.parse.quote(container, safe="$"), urllib.parse.quote(name, safe="")])


class UploadFailed(Exception):
    """The storage service did not take the output; the counting itself went well."""


def upload(url: str, sas: str, data: bytes, *, sleep: Callable[[float], None] = time.sleep) -> None:
    """Put the blob. What may pass is tried again; the rest is SystemExit, with a message without the SAS."""
    headers = {
        "x-ms-blob-type": "BlockBlob",
        "x-ms-version": STORAGE_VERSION,
        "Content-Type": "text/plain; charset=utf-8",
        # The service refuses what does not match, and keeps it for whoever downloads the blob.
        "Content-MD5": base64.b64encode(hashlib.md5(data).digest()).decode(),
    }
    request = urllib.request.Request(f"{url}?{sas}", data=data, headers=headers, method="PUT")
    host = urllib.parse.urlsplit(url).hostname or ""
    local = host in ("localhost", "::1") or host.startswith("127.")
    opener = urllib.request.build_opener(*[urllib.request.ProxyHandler({})] if local else [])
    for attempt in range(1, UPLOAD_ATTEMPTS + 1):
        pause = 2 ** (attempt - 1) * random.uniform(0.5, 1.5)
        advice = ""
        try:
            opener.open(request, timeout=UPLOAD_TIMEOUT).close()
            return
        except urllib.error.HTTPError as error:
            code = error.headers.get("x-ms-error-code") or error_code(error.read())
            reason = f"HTTP {error.code} {code}".rstrip()
            advice = ADVICE.get(error.code, "")
            if error.code not in (408, 429) and error.code < 500 and code != "Md5Mismatch":
                break
            with contextlib.suppress(ValueError):  # Retry-After may also be a date; the storage service sends seconds
                pause = float(error.headers.get("Retry-After", ""))
        except (OSError, http.client.HTTPException) as error:
            # Only a URLError's reason: an HTTPException may quote the URL, and with it the SAS.
            reason = str(getattr(error, "reason", "")) or type(error).__name__
        if attempt < UPLOAD_ATTEMPTS:
            pause = min(max(pause, 0.0), LONGEST_PAUSE)
            print(
                f"Upload attempt {attempt} failed ({reason}); next in {pause:.1f} s",
                file=sys.stderr,
                flush=True,
            )
            sleep(pause)
    raise UploadFailed(f"Upload to {url} failed: {reason}. {advice}".rstrip())


def error_code(body: bytes) -> str:
    found = re.search(rb"<Code>(\w+)</Code>", body)
    return found.group(1).decode() if found else ""


# --- the command line -------------------------------------------------------------------------------------


def at_least_one(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is less than 1")
    return value


def seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a number of seconds from 0 up")
    return value


def account(text: str) -> str:
    url = urllib.parse.urlsplit(text)
    if re.fullmatch("[a-z0-9]{3,24}", text) or (
        url.scheme in ("http", "https") and url.hostname and not url.query and not url.fragment
    ):
        return text
    raise argparse.ArgumentTypeError(
        "neither an account name (3 to 24 lower-case letters and digits) nor a blob endpoint such as "
        "https://NAME.blob.core.windows.net"
    )


def text_encoding(name: str) -> str:
    with contextlib.suppress(LookupError, TypeError, ValueError):  # not known, or one that decodes no bytes
        if isinstance(codecs.getincrementaldecoder(name)().decode(b""), str):  # and not such as base64
            return name
    raise argparse.ArgumentTypeError(f"{name!r} is no text encoding that Python knows, such as windows-1251 or utf-16")


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Count the words of a text file, write the most frequent ones to "
        "<stem>_OUTPUT<ext> beside it, and upload that file to a blob container.",
        epilog="Without --storageaccount and --storagecontainer nothing is uploaded.",
    )
    add = parser.add_argument
    add(
        "--filepath",
        required=True,
        help="the text file; write --filepath=-x.txt if its name starts with a dash",
    )
    add("--numwords", required=True, type=at_least_one, metavar="N", help="how many words to list")
    add("--storageaccount", type=account, metavar="NAME|URL", help="storage account name or blob endpoint URL")
    add("--storagecontainer", metavar="NAME", help="container that receives the output file")
    add(
        "--sastoken",
        metavar="SAS",
        help="SAS token that may create and write blobs in the container; "
        "better given in the environment as OUTPUT_SAS_TOKEN, since others may read a task's command line",
    )
    add(
        "--encoding",
        type=text_encoding,
        metavar="NAME",
        help="encoding of a file without byte-order mark, such as windows-1251 (default: UTF-8, or UTF-16 or UTF-32 "
        "where NUL bytes show it)",
    )
    add("--delay", type=seconds, default=0.0, metavar="SECONDS", help="wait before counting (default: 0)")
    add(
        "--slots",
        type=at_least_one,
        default=at_least_one(os.environ.get("TASKS_PER_NODE", "1")),
        metavar="N",
        help="task slots of this node: the cores are shared among as many tasks (default: TASKS_PER_NODE, or 1)",
    )
    options = parser.parse_args(arguments)
    if bool(options.storageaccount) != bool(options.storagecontainer):
        missing = "--storagecontainer" if options.storageaccount else "--storageaccount"
        parser.error(f"{missing} is missing: an upload needs both the account and the container")
    # Not an argparse default, which --help could print.
    options.sastoken = (options.sastoken or os.environ.get("OUTPUT_SAS_TOKEN", "")).strip().lstrip("?")
    if options.storageaccount and not re.fullmatch(r"[!-~]+", options.sastoken):
        fault = "contains a space or a character outside ASCII" if options.sastoken else "is missing"
        parser.error(f"the SAS token {fault}: set OUTPUT_SAS_TOKEN, or give --sastoken")
    return options


def usable_cores() -> int:
    affinity = getattr(os, "sched_getaffinity", None)  # Linux only
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def workers_for(path: str, slots: int) -> int:
    if not hasattr(os, "fork") or os.path.getsize(path) < SMALL_FILE_BYTES:
        return 1
    return max(1, usable_cores() // slots)


def count(path: str, options: argparse.Namespace) -> str:
    """The output for the file, in whatever encoding it is."""
    encoding = encoding_of(path, options.encoding or "")
    if encoding == "utf-8":
        words, replaced = top_words(path, options.numwords, workers=workers_for(path, options.slots))
    else:
        with tempfile.TemporaryDirectory(prefix=".top_words-", dir=".") as scratch:
            text = os.path.join(scratch, "utf-8")
            replaced = as_utf8(path, encoding, text)
            words, _ = top_words(text, options.numwords, workers=workers_for(text, options.slots))
    if replaced:
        print(
            f"{shown(path)}: {replaced} bytes are not {encoding} and were replaced; name its encoding with --encoding",
            file=sys.stderr,
        )
    return report(words, encoding, replaced)


def shown(name: str) -> str:
    """The name without what a terminal would obey."""
    return name if name.isprintable() else repr(name)[1:-1]


def run(options: argparse.Namespace) -> None:
    path = options.filepath
    if not os.path.isfile(path):
        raise SystemExit(f"--filepath: there is no file {shown(path)}")
    if options.delay:
        print(f"Waiting {options.delay:g} seconds before counting...", flush=True)
        time.sleep(options.delay)
    output = output_name(path)
    data = count(path, options).encode()
    with open(output, "wb") as file:
        file.write(data)
    if not options.storageaccount:
        if "OUTPUT_DIR" not in os.environ:  # else the run stores it, and keeps what is printed for each file
            print(f"Wrote {shown(output)}")
        return
    print(f"Uploading file {shown(output)} to container [{options.storagecontainer}]...", flush=True)
    upload(blob_url(options.storageaccount, options.storagecontainer, output), options.sastoken, data)


def main() -> None:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a C locale must not fail on a file's name
    gc.disable()  # the tables hold no cycles, and to look for some would take a tenth of the time
    options = parse()
    try:
        run(options)
    except NotText as error:
        print(f"{shown(options.filepath)} is not text: {error}", file=sys.stderr)
        raise SystemExit(NOT_TEXT) from None
    except UploadFailed as error:
        print(error, file=sys.stderr)
        raise SystemExit(UPLOAD_FAILED) from None
    except (OSError, RuntimeError) as error:
        raise SystemExit(f"top_words: {error}") from None


if __name__ == "__main__":
    main()
