#!/usr/bin/env python3
"""Find the most frequent words of one text file: the node script of the flow `top_words`.

Runs on Python 3.8 and later with nothing but the standard library, so a node can run it as soon as it boots.
Memory is bounded: the file is read in blocks, one process per core of the task slot counts words, and tables that
outgrow their share move to hash partitions in the working directory. The answer is exact, and the same for every
block size, number of processes and share of memory. A file that is not text is refused.
"""

from __future__ import annotations

# Most of the time for a small file is imports: what few runs need, the functions that need it import.
import argparse
import codecs
import fcntl
import io
import itertools
import marshal
import os
import re
import sys
import time
from array import array
from collections import Counter
from functools import partial

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

    Words = list[tuple[bytes, int]]  # with their counts

PUNCTUATION = b"!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"  # string.punctuation, without the time to import string
AROUND_WORDS = itertools.repeat(PUNCTUATION)  # of each token
# What str.split() splits at and bytes.split() does not.
SPACES = "\x1c\x1d\x1e\x1f\x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))
BLOCK_BYTES = 128 << 10  # small enough for a core's cache to hold the block's words
TABLE_BYTES = 32 << 20  # per process
WORD_BYTES = 130  # of a table entry, beside the letters
LONG = 1 << 20  # bytes, and at least 6 blocks; a longer word is kept in a file
SMALL_FILE_BYTES = 8 << 20  # below this, forking costs more than it saves
SEGMENTS = 16  # per process: the more there are, the closer together the processes end
REPLACED = b" "  # counts the bytes that were replaced; white space is in no word

LOOK_BYTES = 64 << 10  # read to find an encoding, or a space
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

LONGEST_NAME = 255  # bytes, of a file
NOT_TEXT = 65  # the exit code; EX_DATAERR


class NotText(Exception):
    """Says of which file, and why."""


def encoding_of(path: str, named: str = "") -> str:
    """The encoding: by byte-order mark, else the one named, else UTF-8.

    Raises NotText for binary files, whose words would be garbage.
    """
    with open(path, "rb") as file:
        start = file.read(LOOK_BYTES)
    encoding = next((name for mark, name in MARKS if start.startswith(mark)), codecs.lookup(named or "utf-8").name)
    reason = next((f"it starts as a {name} file does" for magic, name in FORMATS if start.startswith(magic)), "")
    if encoding in ("utf-16", "utf-32"):
        reason = reason or f"it has no byte-order mark; name {encoding}-le or {encoding}-be with --encoding"
    elif b"\0" in start and not named and encoding == "utf-8":
        reason = reason or f"it holds NUL bytes, and no byte-order mark of UTF-16 or UTF-32; {IF_TEXT}"
    reason = reason or why_binary(path, encoding)
    if reason:
        raise NotText(f"{shown(path)} is not text: {reason}")
    return encoding


def why_binary(path: str, encoding: str) -> str:
    """The reason where there are too many control characters for a text; fewer will do where many bytes are none."""
    text = Text(path, encoding, block_bytes=LOOK_BYTES)
    start = next(text.blocks(0, text.size)).decode()
    controls = len(CONTROL.findall(start)) / max(1, len(start))
    undecodable = text.replaced / max(1, min(text.size, LOOK_BYTES))
    figures = f"{controls:.0%} of its characters are control characters, {undecodable:.0%} of its bytes not {encoding}"
    return f"{figures}; {IF_TEXT}" if controls > 0.2 or (controls > 0.01 and undecodable > 0.1) else ""


class Text:
    """A file's tokens as str.split() yields them, in UTF-8; the folder `scratch` keeps long ones."""

    def __init__(self, path: str, encoding: str = "utf-8", scratch: str = "", block_bytes: int = BLOCK_BYTES) -> None:
        self.path, self.encoding, self.scratch, self.block_bytes = path, encoding, scratch, block_bytes
        self.size = os.path.getsize(path)
        self.replaced = 0  # bytes that had to be, as far as it was read

    def borders(self, segments: int) -> list[int]:
        """Offsets of at most that many segments; the first begins after the mark, all others at ASCII white space."""
        with open(self.path, "rb") as file:
            beginning = file.read(4)
            marks = (mark for mark, name in MARKS if name == self.encoding and beginning.startswith(mark))
            borders = [len(next(marks, b""))]
            for number in range(1, segments if self.encoding == "utf-8" else 1):
                start = max(borders[-1], self.size * number // segments)
                file.seek(start)
                data = file.read(LOOK_BYTES)
                offset = len(before_space(data))
                borders += [start + offset] if offset < len(data) else []
        return [*borders, self.size]

    def blocks(self, start: int, stop: int) -> Iterator[bytes]:
        """The text between these offsets, in UTF-8, with no other white space than bytes.split() knows."""
        codec, utf8 = codecs.getincrementaldecoder(self.encoding)("top_words"), self.encoding == "utf-8"
        with open(self.path, "rb") as file:
            file.seek(start)
            data = b"."
            while data:
                data = file.read(min(self.block_bytes, stop - file.tell()))
                # ASCII is as it is, but for four separators, at which bytes.split() does not split.
                if utf8 and data.isascii() and not (codec.getstate()[0] or any(map(data.__contains__, range(28, 32)))):
                    yield data
                    continue
                codecs.register_error("top_words", self._replace)  # one name for all: what is registered stays for good
                text = codec.decode(data, not data)
                for space in SPACES:
                    text = text.replace(space, " ")
                yield text.encode("utf-8", "replace")

    def _replace(self, error: UnicodeError) -> tuple[str, int]:
        assert isinstance(error, UnicodeDecodeError)
        self.replaced += error.end - error.start
        return "\ufffd", error.end

    def tokens(self, start: int, stop: int) -> Iterator[list[bytes]]:
        rest, blocks = b"", self.blocks(start, stop)
        for data in blocks:
            tokens = (rest + data).split()
            rest = tokens.pop() if tokens and not data[-1:].isspace() else b""
            yield tokens
            # In UTF-8 a block is up to three times as long, so a token that never gets here is not longer than LONG.
            if len(rest) > LONG - 3 * self.block_bytes:
                word, rest = self._long_word(rest, blocks)
                yield [word]
        yield rest.split()

    def _long_word(self, start: bytes, blocks: Iterator[bytes]) -> tuple[bytes, bytes]:
        """The word, and what was read after it; of one longer than LONG, a space and the name of a file that has it."""
        import hashlib

        end = 0
        digest, path = hashlib.sha256(), os.path.join(self.scratch, f"long-{os.getpid()}")
        with open(path, "w+b") as file:
            for data in itertools.chain([start], blocks):
                token = before_space(data)
                part = token if end else token.lstrip(PUNCTUATION)
                file.write(part)
                letters = len(part.rstrip(PUNCTUATION))
                end = file.tell() - len(part) + letters if letters else end
                if len(token) < len(data):
                    break
            file.truncate(end)
            file.seek(0)
            if end <= LONG:
                return file.read(), data[len(token) :]
            for part in iter(partial(file.read, BLOCK_BYTES), b""):
                digest.update(part)
        os.replace(path, os.path.join(self.scratch, digest.hexdigest()))
        return b" " + digest.hexdigest().encode(), data[len(token) :]


def before_space(data: bytes) -> bytes:
    return (b"." + data).split(None, 1)[0][1:]


class Tally:
    """The words that one process has counted, in memory; what became too much is in hash partitions on disk."""

    def __init__(self, text: Text, parts: int, limit: int) -> None:
        self.text, self.parts, self.limit = text, parts, limit
        self.saved = self.used = 0
        self.table: Counter[bytes] = Counter()
        self.starts: dict[int, int] = {}  # where in the table the words begin that a segment was the first to have

    def count(self, borders: list[int], segments: Iterable[int]) -> None:
        for segment in segments:
            self.starts[segment] = len(self.table)
            for tokens in self.text.tokens(borders[segment], borders[segment + 1]):
                before = len(self.table)
                self.table.update(map(bytes.strip, tokens, AROUND_WORDS))
                new = len(self.table) - before
                self.used += new * WORD_BYTES + len(b"".join(itertools.islice(reversed(self.table), new)))
                if self.used > self.limit:
                    self.save()
                    self.starts[segment] = 0
        if self.text.replaced:
            self.table[REPLACED] = self.text.replaced

    def save(self) -> None:
        """Move the table to disk, in records that sort by where in the text their words appear first."""
        items, ends = iter(self.table.items()), [*self.starts.values(), len(self.table)]
        for number, start, end in zip(self.starts, ends, ends[1:]):  # noqa: B905 (Python 3.8 has no `strict`)
            pieces: list[tuple[list[bytes], list[int]]] = [([], []) for _ in range(self.parts)]
            for word, count in itertools.islice(items, end - start):
                words, counts = pieces[hash(word) % self.parts]  # forked processes share the hash
                words.append(word)
                counts.append(count)
            for part, (words, counts) in enumerate(pieces):
                record = number, self.saved, b"\n".join(words), array("Q", counts).tobytes()
                append(os.path.join(self.text.scratch, f"part-{part}"), record)
        self.saved, self.used, self.table, self.starts = self.saved + 1, 0, Counter(), {}


def merged(text: Text, part: int) -> Counter[bytes]:
    """The words of a hash partition, in the order of their first appearance."""
    total: Counter[bytes] = Counter()
    for _, _, joined, numbers in sorted(records_of(text, f"part-{part}")):
        words, counts = joined.split(b"\n"), array("Q", numbers)
        # Most words of a text that has very many occur once, which is counted faster than added.
        total.update(words if counts == array("Q", [1]) * len(counts) else dict(zip(words, counts)))  # noqa: B905
    return total


def records_of(text: Text, name: str) -> Iterator[Any]:
    with open(os.path.join(text.scratch, name), "rb") as file:
        while file.peek(1):
            yield marshal.load(file)


def append(path: str, record: tuple[Any, ...]) -> None:
    """Write the record at the end of a file to which other processes write too."""
    with open(path, "ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        marshal.dump(record, file)


def in_processes(number: int, work: Callable[[int], None]) -> None:
    """Do the work in that number of forks, without the 30 ms that multiprocessing takes; if 1, in this process."""
    if number == 1:
        work(0)
        return
    children = []
    for each in range(number):
        children.append(os.fork())
        if not children[-1]:
            try:
                work(each)
                os._exit(0)
            except BaseException:
                sys.excepthook(*sys.exc_info())
                os._exit(1)
    statuses = [os.waitpid(child, 0)[1] for child in children]
    failed = [(status >> 8) or -(status & 127) for status in statuses if status]
    if failed:
        raise RuntimeError(f"{len(failed)} of {number} counting processes failed (exit codes {failed})")


def top_words(
    text: Text, wanted: int, workers: int = 1, table_bytes: int = TABLE_BYTES, all_words: str = ""
) -> tuple[Words, int]:
    """The most frequent words, ties in order of first appearance, and the number of replaced bytes.

    Words are tokens without `string.punctuation` at both ends; case is kept. One longer than LONG is a space and the
    name of a file in `text.scratch`. All words are written to the file `all_words`.
    """
    borders = text.borders(min(workers * SEGMENTS, 256) if workers > 1 else 1)
    parts = max(workers, 1 + text.size * 16 // table_bytes)  # a token takes up to 16 times its bytes in a table
    tally = Tally(text, parts, table_bytes)
    receive, send = os.pipe()
    os.write(send, bytes(range(len(borders) - 1)))  # the segments, of which each process takes the next one
    os.close(send)

    def count(_: int) -> None:
        tally.count(borders, map(ord, iter(lambda: os.read(receive, 1), b"")))
        if workers > 1 or tally.saved:
            tally.save()

    def most_frequent(table: Counter[bytes]) -> tuple[Words, int]:
        replaced = table.pop(REPLACED, 0)
        table.pop(b"", 0)
        words = table.most_common(wanted)
        if all_words:
            append_all(all_words, table, text.scratch)
        return words, replaced

    def merge(number: int) -> None:
        for part in range(number, parts, workers):
            append(os.path.join(text.scratch, "found"), most_frequent(merged(text, part)))

    try:
        in_processes(workers, count)
    finally:
        os.close(receive)
    if workers == 1 and not tally.saved:
        return most_frequent(tally.table)
    in_processes(workers, merge)
    found = [*records_of(text, "found")]
    return in_order(text, [word for words, _ in found for word in words], wanted), sum(number for _, number in found)


def in_order(text: Text, found: Words, wanted: int) -> Words:
    """The most frequent words; where counts are equal, the text is read up to where it decides between the words."""
    least = min(sorted((count for _, count in found), reverse=True)[:wanted], default=0)
    counts = {word: count for word, count in found if count >= least}
    above = {word for word in counts if counts[word] > least}
    seen: dict[bytes, int] = {}
    if len(set(counts.values())) < len(counts):
        for tokens in text.tokens(*text.borders(1)):
            for word in dict.fromkeys(filter(counts.__contains__, map(bytes.strip, tokens, AROUND_WORDS))):
                seen.setdefault(word, len(seen))
            if len(seen) >= min(wanted, len(counts)) and above <= seen.keys():
                break
    return sorted(counts.items(), key=lambda pair: (-pair[1], seen.get(pair[0], len(seen))))[:wanted]


def output_name(path: str) -> str:
    """<stem>_OUTPUT<ext>, with a shorter stem if need be; in OUTPUT_DIR, where that is set, else beside the input."""
    folder, name = os.path.split(os.fsencode(path))
    stem, extension = os.path.splitext(name)
    whole = stem[: max(1, LONGEST_NAME - len(extension) - len("_OUTPUT"))] + b"_OUTPUT" + extension
    return os.path.join(os.environ.get("OUTPUT_DIR") or os.fsdecode(folder), os.fsdecode(whole[:LONGEST_NAME]))


def write_output(path: str, words: Words, text: Text, replaced: int) -> None:
    """The last lines, on encoding and replaced bytes, only where they are not UTF-8 and none."""
    rule = "-" * 30 + "\n"
    names = ("Node", "Task", "Job", "Pool")
    lines = [f"{name + ':':<6}{os.environ.get(f'AZ_BATCH_{name.upper()}_ID', '')}\n" for name in names]
    lines += [f"Encoding: {text.encoding}\n"] if text.encoding != "utf-8" else []
    lines += [f"Replaced bytes: {replaced}\n"] if replaced else []
    with open(path, "wb") as file:
        file.write(f"Word\tCount\n{rule}".encode())
        for word, count in words:
            file.writelines(letters(word, text.scratch))
            file.write(b":\t%d\n" % count)
        file.write((rule + "".join(lines)).encode())


def letters(word: bytes, scratch: str) -> Iterator[bytes]:
    """The word; where it is a space and the name of a file, what is in that file."""
    if not word.startswith(b" "):
        yield word
        return
    with open(os.path.join(scratch, word[1:].decode()), "rb") as kept:
        yield from iter(partial(kept.read, BLOCK_BYTES), b"")


def append_all(path: str, table: Counter[bytes], scratch: str) -> None:
    """Write a line for each word, with a tab before its count, in gzip: several such parts are one such file."""
    import gzip

    # Fast rather than small: level 6 would save an eighth of the size, for twice the time.
    with open(path, "ab") as file, gzip.GzipFile("", "wb", 1, file, 0) as packer:
        fcntl.flock(file, fcntl.LOCK_EX)
        for word in [word for word in table if word.startswith(b" ")]:
            packer.writelines(itertools.chain(letters(word, scratch), [b"\t%d\n" % table.pop(word)]))
        lines = map(b"%b\t%d\n".__mod__, table.items())
        packer.writelines(iter(lambda: b"".join(itertools.islice(lines, 10_000)), b""))


def count(path: str, output: str, options: argparse.Namespace, scratch: str) -> None:
    """Write the output for the file, in whatever encoding it is."""
    text = Text(path, encoding_of(path, options.encoding or ""), scratch)
    workers, all_words = workers_for(text.size), options.allwords or ""
    if all_words and os.path.exists(all_words):
        os.remove(all_words)  # of an earlier attempt
    words, replaced = top_words(text, options.numwords, workers, all_words=all_words)
    write_output(output, words, text, replaced)
    if replaced:
        fault = f"{shown(path)}: {replaced} bytes are not {text.encoding} and were replaced"
        print(f"{fault}; name its encoding with --encoding", file=sys.stderr)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    about = "Write the most frequent words of a text file to <stem>_OUTPUT<ext>, in OUTPUT_DIR or beside the file."
    # With a width of its own: to find the terminal's takes imports.
    parser = argparse.ArgumentParser(description=about, formatter_class=partial(argparse.HelpFormatter, width=100))
    encoding = "encoding of a file without byte-order mark (default: UTF-8)"
    add = parser.add_argument
    add("--filepath", required=True, help="the text file; write --filepath=-x.txt if its name starts with a dash")
    add("--numwords", required=True, type=int, metavar="N", help="how many words to list")
    add("--allwords", metavar="FILE", help="also write all words with their counts to this file, compressed by gzip")
    add("--encoding", metavar="NAME", help=encoding)
    add("--delay", type=float, default=0.0, metavar="SECONDS", help="wait before counting (default: 0)")
    options = parser.parse_args(arguments)
    if options.numwords < 1 or not options.delay >= 0:
        parser.error("--numwords must be at least 1, and --delay at least 0 seconds")
    try:
        b".".decode(options.encoding or "utf-8", "replace")
    except LookupError as error:  # it is not known, or decodes to no text
        parser.error(f"--encoding: {error}")
    return options


def workers_for(size: int) -> int:
    """A process per core, of which a node's tasks that run at a time have equal shares."""
    tasks = int(os.environ.get("TASKS_PER_NODE", "1"))
    return max(1, len(os.sched_getaffinity(0)) // tasks) if size >= SMALL_FILE_BYTES else 1


def shown(name: str) -> str:
    """The name without what a terminal would obey."""
    return name if name.isprintable() else repr(name)[1:-1]


def run(options: argparse.Namespace) -> None:
    path = options.filepath
    if options.delay:
        print(f"Waiting {options.delay:g} seconds before counting...", flush=True)
        time.sleep(options.delay)
    output = output_name(path)
    if os.path.getsize(path) <= BLOCK_BYTES:  # neither a word nor the table can become too large for memory
        count(path, output, options, "")
    else:
        scratch = f".top_words-{os.getpid()}-{time.time_ns()}"
        os.mkdir(scratch)
        try:
            count(path, output, options, scratch)
        finally:
            for name in os.listdir(scratch):
                os.remove(os.path.join(scratch, name))
            os.rmdir(scratch)
    if "OUTPUT_DIR" not in os.environ:  # else the run stores it, and keeps what is printed for each file
        print(f"Wrote {shown(output)}")


def process_file(arguments: list[str]) -> int:
    """Do what the command line does for one file; returns the exit code. SystemExit for wrong arguments."""
    try:
        run(parse(arguments))
    except NotText as error:
        print(error, file=sys.stderr)
        return NOT_TEXT
    except (OSError, RuntimeError) as error:
        print(f"top_words: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a C locale must not fail on a file's name
    sys.exit(process_file(sys.argv[1:]))
