"""List or extract members of a local or remote wheel.

    members.py list WHEEL
    members.py get WHEEL FOLDER PATTERN...        shell patterns, matched against the whole member name

WHEEL is a path, a URL that answers range requests, or INDEX#PROJECT==VERSION: a PEP 503 index, of which the x86-64
Linux wheel is taken. From a URL only the bytes of the members are read. Every extracted file is checked against the
SHA-256 in the wheel's RECORD. Needs Python 3.6.
Exit code 1: an error of the wheel, the network or the disk. Exit code 2: wrong arguments.
"""

import base64
import contextlib
import csv
import difflib
import fnmatch
import hashlib
import html.parser
import http.client
import io
import os
import re
import sys
import time
import urllib.parse
import urllib.request
import zipfile
import zlib

CHUNK_BYTES = 4 << 20
RETRIES = 5
RETRY_AFTER_S = 1.0
TIMEOUT_S = 120


class MembersError(Exception):
    """A wheel that cannot be fetched, read or trusted.

    The message is one sentence.
    """


class RemoteFile(io.RawIOBase):
    """A file behind a URL that is read by HTTP ranges.

    `read_bytes` counts the bytes that came over the network.
    """

    def __init__(self, url):
        self.url = url
        self.read_bytes = 0
        self._at = 0
        self._start = 0
        self._chunk = b""
        range_, content = self._fetch(0, 1)
        self.size = int(range_.rpartition("/")[2])
        self.read_bytes += len(content)

    def _fetch(self, start, end):
        """Return (Content-Range, bytes from `start` up to `end`).

        Retries when the network fails. Raises MembersError when the range cannot be read.
        """
        headers = {"Range": f"bytes={start}-{end - 1}", "User-Agent": "members.py"}
        for attempt in range(RETRIES + 1):
            try:
                with _open(urllib.request.Request(self.url, headers=headers)) as answer:  # noqa: S310 — http(s) only
                    range_ = answer.headers.get("Content-Range", "")
                    if answer.status != 206 or not re.search(r"/\d+$", range_):
                        raise MembersError(f"{self.url} does not answer range requests; download it and pass the file")
                    content = answer.read()
                if len(content) == end - start:
                    return range_, content
                problem = f"{len(content)} bytes came instead of {end - start}"
            except (OSError, http.client.HTTPException) as error:
                if getattr(error, "code", 500) < 500:
                    raise MembersError(f"{self.url}: {error}") from error
                problem = str(error)
            if attempt < RETRIES:
                time.sleep(RETRY_AFTER_S * 2**attempt)
        raise MembersError(f"{self.url} cannot be read: {problem}")

    def seekable(self):
        """Return True."""
        return True

    def readable(self):
        """Return True."""
        return True

    def tell(self):
        """Return the position in bytes."""
        return self._at

    def seek(self, offset, whence=0):
        """Set the position without reading."""
        self._at = offset + (0, self._at, self.size)[whence]
        return self._at

    def readinto(self, buffer):
        """Fill the buffer from the chunk at the position.

        Returns the number of bytes, 0 at the end of the file. Raises MembersError when the chunk cannot be read.
        """
        if self._at >= self.size:
            return 0
        if not self._start <= self._at < self._start + len(self._chunk):
            _, self._chunk = self._fetch(self._at, min(self._at + CHUNK_BYTES, self.size))
            self._start = self._at
            self.read_bytes += len(self._chunk)
        offset = self._at - self._start
        piece = self._chunk[offset : offset + len(buffer)]
        buffer[: len(piece)] = piece
        self._at += len(piece)
        return len(piece)


class _Links(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.targets = []

    def handle_starttag(self, tag, attrs):
        """Keep the target of a link."""
        if tag == "a" and dict(attrs).get("href"):
            self.targets.append(dict(attrs)["href"])


def find(source):
    """Return the path or URL of a wheel.

    INDEX#PROJECT==VERSION is looked up. Raises MembersError when the index cannot be read or lacks the wheel.
    """
    index, hash_, wanted = source.partition("#")
    if not hash_:
        return source
    project, _, version = wanted.partition("==")
    if not project or not version:
        raise MembersError(f"{source} names no PROJECT==VERSION behind its #")
    page = "{}/{}/".format(index.rstrip("/"), re.sub(r"[-_.]+", "-", project).lower())
    links = _Links()
    try:
        with _open(urllib.request.Request(page, headers={"User-Agent": "members.py"})) as answer:  # noqa: S310
            links.feed(answer.read().decode(errors="replace"))
    except (OSError, http.client.HTTPException) as error:
        raise MembersError(f"{page}: {error}") from error
    for link in links.targets:
        name = urllib.parse.unquote(urllib.parse.urlsplit(link).path.rpartition("/")[2])
        if f"-{version}-" in name and name.endswith("x86_64.whl") and "manylinux" in name:
            return urllib.parse.urljoin(page, link.partition("#")[0])
    raise MembersError(f"{page} has no x86-64 Linux wheel of {project} {version}")


def _open(request):
    if not request.full_url.startswith(("http://", "https://")):
        raise MembersError(f"{request.full_url} is neither a file nor an http address")
    return urllib.request.urlopen(request, timeout=TIMEOUT_S)  # noqa: S310 — checked above


@contextlib.contextmanager
def opened(source):
    """Open a wheel as a zip file.

    Raises MembersError when the wheel is damaged or cannot be read, also inside the block.
    """
    try:
        if "://" in source:
            with zipfile.ZipFile(io.BufferedReader(RemoteFile(source), CHUNK_BYTES)) as wheel:
                yield wheel
        else:
            with zipfile.ZipFile(source) as wheel:
                yield wheel
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise MembersError(f"{source} is damaged or no wheel: {error}") from error
    except OSError as error:
        raise MembersError(str(error)) from error


def recorded(wheel):
    """Return each member's SHA-256 from the wheel's RECORD.

    It is empty for a member without a hash. Raises MembersError for a wheel without RECORD.
    """
    records = [name for name in wheel.namelist() if re.match(r"[^/]+\.dist-info/RECORD$", name)]
    if len(records) != 1:
        raise MembersError(f"it is no wheel: it has {len(records)} files RECORD")
    with wheel.open(records[0]) as stream:
        rows = list(csv.reader(io.TextIOWrapper(stream, "utf-8")))
    return {row[0]: row[1].partition("sha256=")[2] for row in rows if len(row) > 1}


def get(wheel, folder, patterns):
    """Extract the matching members and return them.

    Raises MembersError for a pattern that matches nothing, a name that leads out of the folder, or a file that differs
    from RECORD. An incomplete file is never left behind.
    """
    hashes = recorded(wheel)
    names = [member.filename for member in wheel.infolist() if not member.filename.endswith("/")]
    wanted = []
    for pattern in patterns:
        matching = [name for name in names if fnmatch.fnmatchcase(name, pattern)]
        if not matching:
            close = difflib.get_close_matches(pattern, names, n=8, cutoff=0.6)
            raise MembersError("it has no member {}{}".format(pattern, close and ", but " + ", ".join(sorted(close))))
        wanted += [name for name in matching if name not in wanted]
    for name in wanted:
        _extract(wheel, name, folder, hashes.get(name, ""))
    return [wheel.getinfo(name) for name in wanted]


def _extract(wheel, name, folder, recorded_hash):
    if name.startswith("/") or "\\" in name or ".." in name.split("/"):
        raise MembersError(f"member {name!r} leads out of the folder")
    if not recorded_hash and not re.search(r"\.dist-info/(RECORD|RECORD\.jws|RECORD\.p7s)$", name):
        raise MembersError(f"member {name} is not in the wheel's RECORD")
    target = os.path.join(folder, *name.split("/"))
    os.makedirs(os.path.dirname(target), exist_ok=True)
    digest = hashlib.sha256()
    try:
        with wheel.open(name) as source, open(target + ".partial", "wb") as sink:
            for block in iter(lambda: source.read(1 << 20), b""):
                digest.update(block)
                sink.write(block)
        if recorded_hash and base64.urlsafe_b64encode(digest.digest()).decode().rstrip("=") != recorded_hash:
            raise MembersError(f"member {name} is not what the wheel's RECORD says")
        os.replace(target + ".partial", target)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(target + ".partial")


def main(arguments):
    """List or extract members, and return the exit code."""
    if not (len(arguments) == 2 and arguments[0] == "list") and not (len(arguments) > 3 and arguments[0] == "get"):
        sys.stderr.write(__doc__)
        return 2
    source = arguments[1]
    try:
        with opened(find(source)) as wheel:
            members = wheel.infolist() if arguments[0] == "list" else get(wheel, arguments[2], arguments[3:])
            for member in members:
                sys.stdout.write(f"{member.file_size:>14,} {member.filename}\n")
    except MembersError as error:
        sys.stderr.write(f"members: {source}: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
