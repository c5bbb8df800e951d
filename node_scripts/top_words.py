#!/usr/bin/env python3
"""Find the most frequent words of one text file and store them as a blob: the work of one Azure Batch task.

Runs on Python 3.8 and later with nothing but the standard library, so a node can run it as soon as it boots.
Memory is bounded: the file is read in blocks, one process per core of the task slot counts words, and tables that
outgrow their share move to hash partitions in the working directory. The answer is exact, and the same for every
block size, number of processes and share of memory. Text in another encoding than UTF-8 is written to the working
directory as UTF-8 first; a file that is not text is refused.
"""

from __future__ import annotations

# A third of the time for a small file is imports: what few runs need, the functions that need it import.
import argparse
import codecs
import gc
import io
import itertools
import marshal
import os
import re
import sys
import time
from array import array
from collections import Counter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import BinaryIO

    Words = list[tuple[str, int]]  # with their counts

PUNCTUATION = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"  # string.punctuation, without the time to import string
BLOCK_BYTES = 256 << 10  # small enough for a core's cache to hold the block's words
TABLE_BYTES = 32 << 20  # per process
MANY = 40_000  # different tokens
WORD_BYTES = 130  # of a table entry, beside the letters
LONG = 4 << 20  # characters, and more bytes than a block; a longer word is kept in a file
SMALL_FILE_BYTES = 8 << 20  # below this, forking costs more than it saves
SMALL_TEXT = 1 << 20  # one partition will do
SCAN_BYTES = 32 << 10  # read when looking for white space
LONG_READ = 1 << 20  # read of a long token
# What str.split() splits at, as UTF-8. Each starts with a byte that never continues a character, so wherever it
# occurs, in valid text or not, a decoder sees white space: text may be cut there. The set in front is what makes the
# search fast.
SPACE = re.compile(
    rb"[\t-\r\x1c-\x20\xc2\xe1-\xe3](?:(?<=[\t-\r\x1c-\x20])|(?<=\xc2)[\x85\xa0]|(?<=\xe1)\x9a\x80"
    rb"|(?<=\xe2)(?:\x80[\x80-\x8a\xa8\xa9\xaf]|\x81\x9f)|(?<=\xe3)\x80\x80)"
)

LOOK_BYTES = 64 << 10  # of the start of a file, by which its encoding is found
# UTF-32 first: its little-endian mark begins with that of UTF-16.
MARKS = (
    *((codecs.BOM_UTF32_LE, "utf-32-le"), (codecs.BOM_UTF32_BE, "utf-32-be"), (codecs.BOM_UTF8, "utf-8")),
    *((codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be")),
)
FORMATS = (
    *((b"\x1f\x8b", "gzip"), (b"BZh", "bzip2"), (b"\xfd7zXZ\0", "xz"), (b"\x28\xb5\x2f\xfd", "zstd")),
    *((b"7z\xbc\xaf\x27\x1c", "7z"), (b"PK\x03\x04", "zip"), (b"%PDF-", "PDF"), (b"\x7fELF", "ELF")),
    *((b"\x89PNG\r\n\x1a\n", "PNG"), (b"\xff\xd8\xff", "JPEG"), (b"GIF8", "GIF")),
)
IF_TEXT = "if it is text, name its encoding with --encoding"
# Not in these: white space, BEL, BS and ESC, which terminals put into logs, and \x1c to \x1f, which separate fields.
CONTROL = re.compile("[\0-\x06\x0e-\x1a\x7f-\x84\x86-\x9f]")

STORAGE_VERSION = "2021-08-06"
UPLOAD_TIMEOUT = 60.0  # seconds of silence
UPLOAD_ATTEMPTS = 5
LONGEST_PAUSE = 60.0  # seconds
LONGEST_NAME = 255  # bytes, of a file
UPLOAD_FAILED = 74  # the exit code; EX_IOERR of sysexits.h
NOT_TEXT = 65  # the exit code; EX_DATAERR
ADVICE = {
    403: "The SAS token has expired, or does not permit create and write in this container.",
    404: "The container or the account does not exist; check --storageaccount and --storagecontainer.",
}


class Failure(Exception):
    """What ends the script with an exit code of its own."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


# --- what a file is ---------------------------------------------------------------------------------------


def encoding_of(path: str, named: str = "") -> str:
    """The encoding: by byte-order mark, else the one named, else by where NUL bytes are, else UTF-8.

    Raises Failure for binary files, whose words would be garbage.
    """
    with open(path, "rb") as file:
        start = file.read(LOOK_BYTES)
    marked = next((name for mark, name in MARKS if start.startswith(mark)), "")
    encoding = marked or with_byte_order(named, start)
    reason = next((f"it starts as a {name} file does" for magic, name in FORMATS if start.startswith(magic)), "")
    if not encoding and b"\0" in start:
        encoding = by_nul_bytes(start)
        reason = reason or ("" if encoding else f"it holds NUL bytes, and is neither UTF-16 nor UTF-32; {IF_TEXT}")
    encoding = encoding or "utf-8"
    reason = reason or why_binary(start, encoding)
    if reason:
        raise Failure(f"{shown(path)} is not text: {reason}", NOT_TEXT)
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
    import unicodedata

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
        return (
            f"{controls:.0%} of its characters are control characters, "
            f"{undecodable:.0%} of its bytes not {encoding}; {IF_TEXT}"
        )
    return ""


class Decoder:
    """Decodes a stream, and counts the bytes that had to be replaced."""

    def __init__(self, encoding: str) -> None:
        self.replaced = 0
        self._decode = codecs.getincrementaldecoder(encoding)("top_words").decode

    def decode(self, data: bytes, final: bool = False) -> str:
        codecs.register_error("top_words", self._replace)  # one name for all: what is registered stays for good
        return self._decode(data, final)

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


class Text:
    """The tokens of a UTF-8 file: what str.split() yields; those longer than LONG are kept in files."""

    def __init__(self, path: str, scratch: str, block_bytes: int = BLOCK_BYTES) -> None:
        self.path, self.scratch, self.block_bytes = path, scratch, block_bytes
        self.size = os.path.getsize(path)
        self.decoder = Decoder("utf-8")
        self.varied = (
            False  # many different tokens: stripped as they come, so that tables stay small, else when counted
        )

    def blocks(self, start: int, end: int) -> Iterator[list[str]]:
        """The tokens that start between these offsets, block by block."""
        with open(self.path, "rb") as file:
            if start:
                start = first_space(file, start, end)
            while start < end:
                border = min(start + self.block_bytes, end)
                stop = first_space(file, border, self.size)
                tail = stop
                if stop - start > LONG:
                    file.seek(start)
                    data = file.read(border - start + 2)  # a space may lie across the border
                    ends = (space.end() for space in SPACE.finditer(data) if start + space.start() < border)
                    tail = start + max(ends, default=marked(start, data))
                file.seek(start)
                data = file.read(tail - start)
                yield self.decoder.decode(data[marked(start, data) :], True).split()
                if tail < stop:
                    yield [self._long_word(file, tail, stop)]
                start = stop

    def _long_word(self, file: BinaryIO, start: int, stop: int) -> str:
        """The word; if it is longer than LONG, a space, which is in no word, and the name of a file that holds it."""
        import hashlib

        marks = PUNCTUATION.encode()
        for data in pieces(file, start, stop):
            start += len(data) - len(data.lstrip(marks))
            if data.strip(marks):
                break
        while stop > start:
            [data] = pieces(file, max(start, stop - LONG_READ), stop)
            stop -= len(data) - len(data.rstrip(marks))
            if data.strip(marks):
                break
        digest, length, path = hashlib.sha256(), 0, os.path.join(self.scratch, f"long-{os.getpid()}")
        with open(path, "w+b") as kept:
            for data in itertools.chain(pieces(file, start, stop), [b""]):
                text = self.decoder.decode(data, not data)
                length += len(text)
                data = text.encode()
                digest.update(data)
                kept.write(data)
            kept.seek(0)
            if length <= LONG:
                return kept.read().decode()
        os.replace(path, os.path.join(self.scratch, digest.hexdigest()))
        return f" {digest.hexdigest()}"


def marked(start: int, data: bytes) -> int:
    """How many bytes a byte-order mark takes."""
    return 0 if start or not data.startswith(codecs.BOM_UTF8) else len(codecs.BOM_UTF8)


def first_space(file: BinaryIO, start: int, end: int) -> int:
    """The offset of the first white space from `start` on; `end` where it is not before that."""
    while start < end:
        file.seek(start)
        data = file.read(SCAN_BYTES + 2)  # a space that starts in the last byte may be two bytes longer
        space = SPACE.search(data)
        if space and space.start() < SCAN_BYTES:
            return min(start + space.start(), end)
        start += SCAN_BYTES
    return end


def pieces(file: BinaryIO, start: int, stop: int) -> Iterator[bytes]:
    file.seek(start)
    while start < stop:
        data = file.read(min(LONG_READ, stop - start))
        start += len(data)
        yield data


def strip(tokens: Iterable[str]) -> Iterator[str]:
    """The words; '' among them is none."""
    return map(str.strip, tokens, itertools.repeat(PUNCTUATION))


def tally(text: Text, start: int, end: int, name: str, parts: int, table_bytes: int) -> None:
    """Count the words that start between these offsets into tables named in their order of appearance."""
    table: Counter[str] = Counter()
    used = tables = 0
    for tokens in text.blocks(start, end):
        before = len(table)
        table.update(strip(tokens) if text.varied else tokens)
        new = len(table) - before
        used += new * WORD_BYTES + sys.getsizeof("".join(itertools.islice(reversed(table), new)))
        text.varied |= len(table) > MANY and new * 10 > len(tokens)
        if used > table_bytes:
            save(table, text, f"{name}-{tables:09}", parts)
            table, used, tables = Counter(), 0, tables + 1
    save(table, text, f"{name}-{tables:09}", parts)


def save(table: Counter[str], text: Text, name: str, parts: int) -> None:
    """Write the table by hash partition, after the offsets of the partitions and the number of replaced bytes."""
    words: list[list[str]] = [[] for _ in range(parts)]
    more: list[Words] = [[] for _ in range(parts)]
    for word, count in zip(strip(table), table.values()):  # noqa: B905 (Python 3.8 has no `strict`)
        part = hash(word) % parts  # forked processes share the hash
        words[part].append(word)
        if count > 1:
            more[part].append((word, count - 1))
    offsets = array("Q", [text.decoder.replaced])
    text.decoder.replaced = 0
    with open(os.path.join(text.scratch, f"{name}.table"), "wb") as file:
        file.seek(8 * (parts + 2))
        for part in range(parts):
            offsets.append(file.tell())
            # Version 2 looks for no shared references: there are none.
            file.write(marshal.dumps(("\n".join(words[part]), more[part]), 2))
        offsets.append(file.tell())
        file.seek(0)
        file.write(offsets.tobytes())


def merge(scratch: str, part: int, wanted: int, everything: bool = False) -> Words:
    """The best of one partition. A dict keeps the order of insertion, here that of appearance in the text."""
    total: Counter[str] = Counter()
    for name in sorted(os.listdir(scratch)):
        if name.endswith(".table"):
            with open(os.path.join(scratch, name), "rb") as file:
                file.seek(8 * (part + 1))
                start, stop = array("Q", file.read(16))
                file.seek(start)
                words, more = marshal.loads(file.read(stop - start))
            total.update(words.split("\n"))
            for word, count in more:
                total[word] += count
    del total[""]
    best = total.most_common(wanted)
    if everything:
        write_all(os.path.join(scratch, f"{part:09}.all"), total, scratch)
    return best


def leading(found: Words, wanted: int) -> Words:
    """The most frequent words, and those that tie for the last places."""
    counts = sorted((count for _, count in found), reverse=True)
    return [pair for pair in found if pair[1] >= counts[wanted - 1]] if len(found) > wanted else found


def in_order(text: Text, found: Words, wanted: int) -> Words:
    """The most frequent words; where counts are equal, the text is read up to where it decides between the words."""
    counts = dict(found)
    least = min(counts.values(), default=0)
    ties = Counter(counts.values())
    places = wanted - sum(ties[count] for count in ties if count > least)
    missing = {word for word in counts if ties[counts[word]] > 1}
    seen: dict[str, int] = {}
    blocks = text.blocks(0, text.size)
    while missing:
        for word in dict.fromkeys(filter(missing.__contains__, strip(next(blocks)))):
            seen[word] = len(seen)
            places -= counts[word] == least
        missing = {word for word in missing - seen.keys() if places > 0 or counts[word] > least}
    return sorted(found, key=lambda pair: (-pair[1], seen.get(pair[0], len(seen))))[:wanted]


def top_words(
    path: str,
    wanted: int,
    scratch: str,
    workers: int = 1,
    block_bytes: int = BLOCK_BYTES,
    table_bytes: int = TABLE_BYTES,
    everything: bool = False,
) -> tuple[Words, int]:
    """The `wanted` most frequent words of a UTF-8 file, ties in order of first appearance, and the replaced bytes.

    Words are what str.split() yields, without `string.punctuation` at both ends; case is kept. Of a word longer
    than LONG, it is a space and the name of a file in the empty folder `scratch`. With `everything`, that folder then
    has the count of each word in *.all, for write_table to join.
    """
    text = Text(path, scratch, block_bytes)
    segments = 1 if workers == 1 else workers * 4
    # A token takes up to 16 times its bytes in a table: a partition of one that is all new words, twice TABLE_BYTES.
    parts = max(64, text.size * 8 // table_bytes) if text.size > SMALL_TEXT else 1

    def count(segment: int) -> None:
        start, end = (text.size * number // segments for number in (segment, segment + 1))
        tally(text, start, end, f"{segment:09}", parts, table_bytes)

    def find(part: int) -> None:
        with open(os.path.join(scratch, f"{part}.best"), "wb") as file:
            marshal.dump(merge(scratch, part, wanted, everything), file)

    share(workers, segments, count)
    share(workers, parts, find)
    found: Words = []
    replaced = 0
    for name in os.listdir(scratch):
        with open(os.path.join(scratch, name), "rb") as file:
            if name.endswith(".best"):
                found = leading(found + marshal.load(file), wanted)
            elif name.endswith(".table"):
                replaced += int.from_bytes(file.read(8), sys.byteorder)
    return in_order(text, found, wanted), replaced


def share(workers: int, items: int, work: Callable[[int], None]) -> None:
    """Call work(item) for the numbers below `items`, in this process or in forked ones that draw them from one pipe."""
    if workers == 1:
        for item in range(items):
            work(item)
        return
    receive, send = os.pipe()
    children = []
    for _ in range(workers):
        child = os.fork()
        if not child:
            os.close(send)  # or the pipe would never end
            work_and_exit(receive, work)
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


def work_and_exit(receive: int, work: Callable[[int], None]) -> None:
    """The whole life of a forked process; nothing of its parent's is flushed or cleaned up a second time."""
    status = 1
    try:
        # A read of 8 bytes from a pipe that only ever gets 8 at a time is atomic: each number reaches one worker.
        for number in iter(lambda: os.read(receive, 8), b""):
            work(int.from_bytes(number, "little"))
        status = 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os._exit(status)


# --- the output -------------------------------------------------------------------------------------------


def output_name(path: str) -> str:
    """<stem>_OUTPUT<ext>, with a shorter stem if need be; in OUTPUT_DIR, where that is set, else beside the input."""
    folder, name = os.path.split(os.fsencode(path))
    stem, extension = os.path.splitext(name)
    whole = stem[: max(1, LONGEST_NAME - len(extension) - len("_OUTPUT"))] + b"_OUTPUT" + extension
    return os.path.join(os.environ.get("OUTPUT_DIR") or os.fsdecode(folder), os.fsdecode(whole[:LONGEST_NAME]))


def write_output(path: str, words: Words, scratch: str, encoding: str, replaced: int) -> None:
    """The last lines, on encoding and replaced bytes, only where they are not UTF-8 and none."""
    rule = "-" * 30 + "\n"
    names = ("Node", "Task", "Job", "Pool")
    lines = [f"{name + ':':<6}{os.environ.get(f'AZ_BATCH_{name.upper()}_ID', '')}\n" for name in names]
    lines += [f"Encoding: {encoding}\n"] if encoding != "utf-8" else []
    lines += [f"Replaced bytes: {replaced}\n"] if replaced else []
    with open(path, "wb") as file:
        file.write(f"Word\tCount\n{rule}".encode())
        for word, count in words:
            file.writelines(letters(word, scratch))
            file.write(f":\t{count}\n".encode())
        file.write((rule + "".join(lines)).encode())


def letters(word: str, scratch: str) -> Iterator[bytes]:
    """The word as UTF-8; where it is a space and the name of a file, what is in that file."""
    if not word.startswith(" "):
        yield word.encode()
        return
    with open(os.path.join(scratch, word[1:]), "rb") as kept:
        yield from iter(lambda: kept.read(LONG_READ), b"")


def write_all(path: str, total: Counter[str], scratch: str) -> None:
    """Move the counts to a table: a line for each word, with a tab before its count, compressed by gzip."""
    import zlib

    # Fast rather than small: level 6 would save an eighth of the size, for twice the time.
    packer = zlib.compressobj(1, zlib.DEFLATED, 31)  # 31: as gzip does
    with open(path, "wb") as file:
        for word in [word for word in total if word[0] == " "]:
            file.writelines(map(packer.compress, letters(word, scratch)))
            file.write(packer.compress(f"\t{total.pop(word)}\n".encode()))
        lines = map("{}\t{}\n".format, total, total.values())
        for text in iter(lambda: "".join(itertools.islice(lines, 10_000)), ""):
            file.write(packer.compress(text.encode()))
        file.write(packer.flush())


def write_table(path: str, scratch: str) -> None:
    """Join what write_all has written: a file of several gzip files, one after the other, is a gzip file."""
    with open(path, "wb") as table:
        for name in sorted(os.listdir(scratch)):
            if name.endswith(".all"):
                with open(os.path.join(scratch, name), "rb") as file:
                    table.writelines(iter(lambda: file.read(LONG_READ), b""))


def count(path: str, output: str, options: argparse.Namespace) -> None:
    """Write the output for the file, in whatever encoding it is."""
    encoding = encoding_of(path, options.encoding or "")
    scratch = f".top_words-{os.getpid()}-{time.time_ns()}"
    os.mkdir(scratch)
    try:
        text, replaced = path, 0
        if encoding != "utf-8":
            text = os.path.join(scratch, "utf-8")
            replaced = as_utf8(path, encoding, text)
        workers = workers_for(text, options.slots)
        words, more = top_words(text, options.numwords, scratch, workers, everything=bool(options.allwords))
        replaced += more
        if options.allwords:
            write_table(options.allwords, scratch)
        write_output(output, words, scratch, encoding, replaced)
    finally:
        for name in os.listdir(scratch):
            os.remove(os.path.join(scratch, name))
        os.rmdir(scratch)
    if replaced:
        print(
            f"{shown(path)}: {replaced} bytes are not {encoding} and were replaced; name its encoding with --encoding",
            file=sys.stderr,
        )


# --- uploading --------------------------------------------------------------------------------------------


def blob_url(account: str, container: str, path: str) -> str:
    """The blob's address, without SAS; its name is the file's, whatever directory the file is in."""
    from urllib.parse import quote

    endpoint = account.rstrip("/") if "://" in account else f"https://{account}.blob.core.windows.net"
    name = os.fsencode(os.path.basename(path)).decode("utf-8", "replace")
    return "/".join([endpoint, quote(container, safe="$"), quote(name, safe="")])


def upload(url: str, sas: str, data: bytes, *, sleep: Callable[[float], None] = time.sleep) -> None:
    """Put the blob. What may pass is tried again; the rest is a Failure, with a message without the SAS."""
    import base64
    import hashlib
    import http.client
    import random
    import urllib.error
    import urllib.request

    headers = {
        "x-ms-blob-type": "BlockBlob",
        "x-ms-version": STORAGE_VERSION,
        "Content-Type": "text/plain; charset=utf-8",
        # The service refuses what does not match, and keeps it for whoever downloads the blob.
        "Content-MD5": base64.b64encode(hashlib.md5(data).digest()).decode(),
    }
    request = urllib.request.Request(f"{url}?{sas}", data=data, headers=headers, method="PUT")
    local = re.match(r"https?://(localhost|127\.[\d.]+|\[::1\])(:|/)", url)
    opener = urllib.request.build_opener(*[urllib.request.ProxyHandler({})] if local else [])
    reason = advice = ""
    for attempt in range(1, UPLOAD_ATTEMPTS + 1):
        pause = 2 ** (attempt - 1) * random.uniform(0.5, 1.5)
        try:
            opener.open(request, timeout=UPLOAD_TIMEOUT).close()
            return
        except urllib.error.HTTPError as error:
            found = re.search(rb"<Code>(\w+)</Code>", error.read())
            code = error.headers.get("x-ms-error-code") or (found[1].decode() if found else "")
            reason = f"HTTP {error.code} {code}".rstrip()
            advice = ADVICE.get(error.code, "")
            if error.code not in (408, 429) and error.code < 500 and code != "Md5Mismatch":
                break
            wait = error.headers.get("Retry-After", "")  # may also be a date; the storage service sends seconds
            pause = float(wait) if wait.isdecimal() else pause
        except (OSError, http.client.HTTPException) as error:
            # Only a URLError's reason: an HTTPException may quote the URL, and with it the SAS.
            reason, advice = str(getattr(error, "reason", "")) or type(error).__name__, ""
        if attempt < UPLOAD_ATTEMPTS:
            pause = min(pause, LONGEST_PAUSE)
            print(f"Upload attempt {attempt} failed ({reason}); next in {pause:.1f} s", file=sys.stderr, flush=True)
            sleep(pause)
    raise Failure(f"Upload to {url} failed: {reason}. {advice}".rstrip(), UPLOAD_FAILED)


# --- the command line -------------------------------------------------------------------------------------


def at_least_one(text: str) -> int:
    if int(text) >= 1:
        return int(text)
    raise argparse.ArgumentTypeError(f"{int(text)} is less than 1")


def seconds(text: str) -> float:
    if 0 <= float(text) < float("inf"):
        return float(text)
    raise argparse.ArgumentTypeError(f"{text} is not a number of seconds from 0 up")


def account(text: str) -> str:
    if re.fullmatch(r"[a-z0-9]{3,24}|https?://[^/?#\s]+(/[^?#\s]*)?", text):
        return text
    raise argparse.ArgumentTypeError(
        "neither an account name (3 to 24 lower-case letters and digits) nor a blob endpoint such as "
        "https://NAME.blob.core.windows.net"
    )


def text_encoding(name: str) -> str:
    try:
        if isinstance(codecs.getincrementaldecoder(name)().decode(b""), str):  # and not such as base64
            return name
    except (LookupError, TypeError, ValueError):  # not known, or one that decodes no bytes
        pass
    raise argparse.ArgumentTypeError(f"{name!r} is no text encoding that Python knows, such as windows-1251 or utf-16")


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Count the words of a text file, write the most frequent ones to <stem>_OUTPUT<ext> beside it, "
        "and upload that file to a blob container.",
        epilog="Without --storageaccount and --storagecontainer nothing is uploaded.",
    )
    token = (
        "SAS token that may create and write blobs in the container; better given in the environment as "
        "OUTPUT_SAS_TOKEN, since others may read a task's command line"
    )
    encoding = (
        "encoding of a file without byte-order mark, such as windows-1251 "
        "(default: UTF-8, or UTF-16 or UTF-32 where NUL bytes show it)"
    )
    slots = "task slots of this node: the cores are shared among as many tasks (default: TASKS_PER_NODE, or 1)"
    per_node = os.environ.get("TASKS_PER_NODE", "1")
    add = parser.add_argument
    add("--filepath", required=True, help="the text file; write --filepath=-x.txt if its name starts with a dash")
    add("--numwords", required=True, type=at_least_one, metavar="N", help="how many words to list")
    add("--allwords", metavar="FILE", help="also write all words with their counts to this file, compressed by gzip")
    add("--storageaccount", type=account, metavar="NAME|URL", help="storage account name or blob endpoint URL")
    add("--storagecontainer", metavar="NAME", help="container that receives the output file")
    add("--sastoken", metavar="SAS", help=token)
    add("--encoding", type=text_encoding, metavar="NAME", help=encoding)
    add("--delay", type=seconds, default=0.0, metavar="SECONDS", help="wait before counting (default: 0)")
    add("--slots", type=at_least_one, default=per_node, metavar="N", help=slots)
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


def shown(name: str) -> str:
    """The name without what a terminal would obey."""
    return name if name.isprintable() else repr(name)[1:-1]


def run(options: argparse.Namespace) -> None:
    path = options.filepath
    if not os.path.isfile(path):
        raise Failure(f"--filepath: there is no file {shown(path)}", 1)
    if options.delay:
        print(f"Waiting {options.delay:g} seconds before counting...", flush=True)
        time.sleep(options.delay)
    output = output_name(path)
    count(path, output, options)
    if options.storageaccount:
        print(f"Uploading file {shown(output)} to container [{options.storagecontainer}]...", flush=True)
        with open(output, "rb") as file:
            data = file.read()
        upload(blob_url(options.storageaccount, options.storagecontainer, output), options.sastoken, data)
    elif "OUTPUT_DIR" not in os.environ:  # else the run stores it, and keeps what is printed for each file
        print(f"Wrote {shown(output)}")


def main() -> None:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a C locale must not fail on a file's name
    gc.disable()  # the tables hold no cycles, and to look for some would take a tenth of the time
    try:
        run(parse())
    except Failure as failure:
        print(failure, file=sys.stderr)
        raise SystemExit(failure.exit_code) from None
    except (OSError, RuntimeError) as error:
        raise SystemExit(f"top_words: {error}") from None


if __name__ == "__main__":
    main()
