"""Logs in object stores, by URL: s3://, gs:// and Azure's az:// and abfs://, through pyarrow's own file systems.

Credentials are those of the store's usual environment (AWS_PROFILE, AWS_ACCESS_KEY_ID, GOOGLE_APPLICATION_CREDENTIALS,
AZURE_STORAGE_ACCOUNT, ...); AWS_ENDPOINT_URL names another S3 server. An object is streamed, never copied to disk.
"""

from __future__ import annotations

import functools
import io
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import IO, Any
from urllib.parse import urlsplit

from traceprof.errors import TraceprofError

SCHEMES = ("s3", "gs", "gcs", "az", "abfs", "abfss")
_READ_AHEAD = 8 << 20  # bytes asked for at once
_MAGIC = re.compile(r"[*?\[]")


def is_url(word: str) -> bool:
    """Whether a word names something in an object store."""
    return word.partition("://")[0] in SCHEMES and "://" in word


@dataclass(frozen=True, slots=True)
class Remote:
    """One object; stands for a `Path` where a log is read. Workers open it by themselves."""

    root: str  # the URL up to the bucket, with its query: what the file system is made from
    path: str  # bucket and key
    size: int
    modified: str

    def __str__(self) -> str:
        return f"{self.root.partition('://')[0]}://{self.path}"

    def __fspath__(self) -> str:
        return str(self)  # for messages

    @property
    def name(self) -> str:
        """The last part of the key."""
        return PurePosixPath(self.path).name

    def open(self, mode: str = "rb", buffering: int = -1) -> IO[bytes]:
        """The object's bytes, read ahead in large pieces."""
        del mode, buffering
        try:
            return io.BufferedReader(_Raw(_system(self.root).open_input_file(self.path)), _READ_AHEAD)
        except OSError as bad:
            raise _failed(str(self), bad) from None


class _Raw(io.RawIOBase):
    """An Arrow file as the standard library's."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        got = self._file.read(len(buffer))
        buffer[: len(got)] = got
        return len(got)

    def seek(self, offset: int, whence: int = 0) -> int:
        self._file.seek(offset, whence)
        return int(self._file.tell())

    def tell(self) -> int:
        return int(self._file.tell())

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


def objects(url: str) -> list[tuple[Remote, str]]:
    """(object, its key relative to what was named) of a URL: one object, all below a prefix, or those that match a glob.

    `*` and `?` stay within a folder, `**` does not. Raises TraceprofError when there is none, or the store refuses.
    """
    from pyarrow import fs

    scheme, bucket, key, query = _split(url)
    root = f"{scheme}://{bucket}" + (f"?{query}" if query else "")
    where = f"{bucket}/{key}".rstrip("/")
    magic = _MAGIC.search(key)
    base = where if magic is None else f"{bucket}/{key[: magic.start()].rpartition('/')[0]}".rstrip("/")
    try:
        system = _system(root)
        found = system.get_file_info(base)
        if found.type == fs.FileType.File:
            listed = [found]
        else:
            listed = system.get_file_info(fs.FileSelector(base, recursive=True, allow_not_found=True))
    except OSError as bad:
        raise _failed(url, bad) from None
    wanted = re.compile(_pattern(where)) if magic is not None else None
    files = [f for f in listed if f.type == fs.FileType.File and (wanted is None or wanted.fullmatch(f.path))]
    if not files:
        raise TraceprofError("no object there", path=url, remedy="check the URL")
    out = []
    for info in sorted(files, key=lambda f: str(f.path)):
        relative = info.path[len(base) :].lstrip("/") or PurePosixPath(info.path).name
        if not any(part.startswith(".") for part in relative.split("/")):
            out.append((Remote(root, info.path, int(info.size or 0), str(info.mtime)), relative))
    return out


def _split(url: str) -> tuple[str, str, str, str]:
    """(scheme, bucket, key, query); a `?` is part of a glob unless options follow it."""
    scheme, _, rest = url.partition("://")
    rest, _, query = rest.rpartition("?") if re.search(r"\?\w+=", rest) else (rest, "", "")
    bucket, _, key = rest.partition("/")
    return scheme, bucket, key, query


def _pattern(glob: str) -> str:
    """A glob as a regular expression.

    >>> _pattern("a/**/b?.gz")
    'a/(?:.*/)?b[^/]\\\\.gz'
    """

    def pieces() -> Iterator[str]:
        for piece in re.findall(r"\*\*/|\*\*|\*|\?|\[[^\]]+\]|.", glob):
            known = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}.get(piece)
            yield known or (piece if piece[0] == "[" and len(piece) > 1 else re.escape(piece))

    return "".join(pieces())


@functools.lru_cache(maxsize=16)
def _system(root: str) -> Any:
    """The file system of a bucket; one a process."""
    from pyarrow import fs

    scheme, bucket, _, query = _split(root)
    if query:
        return fs.FileSystem.from_uri(root)[0]
    if scheme == "s3":
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        if endpoint:
            at = urlsplit(endpoint if "://" in endpoint else f"https://{endpoint}")
            return fs.S3FileSystem(
                endpoint_override=at.netloc, scheme=at.scheme, region=region or "us-east-1"
            )
        if region:
            return fs.S3FileSystem(region=region)
    if scheme == "az":
        account = os.environ.get("AZURE_STORAGE_ACCOUNT")
        if not account:
            raise OSError("no storage account is named: set AZURE_STORAGE_ACCOUNT")
        return fs.AzureFileSystem(account_name=account)
    return fs.FileSystem.from_uri(f"{'gs' if scheme == 'gcs' else scheme}://{bucket}")[0]


def _failed(url: str, bad: OSError) -> TraceprofError:
    said = " ".join(str(bad).split())[:300]
    return TraceprofError(f"cannot be read: {said}", path=url, remedy="check the URL, credentials and region")
