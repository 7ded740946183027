"""Writing so that a reader never sees half a file, and reading back what was written."""

from __future__ import annotations

import contextlib
import errno
import gzip
import hashlib
import json
import os
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from earshot import SCHEMA_VERSION
from earshot.errors import ArtifactError, EarshotError, StorageError

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NO_RIGHT = (errno.EACCES, errno.EPERM, errno.EROFS)
FULL_BYTES = 1 << 20  # with less free space than this, what a library could not write is put down to it


def storage_error(error: Exception, path: str | Path) -> StorageError | None:
    """What is to be told of a failure to write `path`: None where neither space nor the right to write was lacking.

    Libraries in native code say so by errors of their own: then the free space is looked at.
    """
    code = error.errno if isinstance(error, OSError) else None
    named, said = str(getattr(error, "filename", None) or path), ""
    if code is None:
        folder = next((one for one in Path(named).absolute().parents if one.is_dir()), Path("/"))
        code = errno.ENOSPC if shutil.disk_usage(folder).free < FULL_BYTES else None
        said = f", {type(error).__name__}: {' '.join(str(error).split())[:100]}"
    if code in NO_SPACE:
        return StorageError(f"{named}: cannot be written ({os.strerror(code)}{said}); free some space there and run this step again")
    if code in NO_RIGHT:
        return StorageError(f"{named}: {os.strerror(code)}; let this user write there and run this step again")
    return None


@contextlib.contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """
    Raises:
        StorageError: in the block, `path` could not be written, since the disk is full or does not allow it.
    """
    try:
        yield
    except EarshotError:
        raise
    except Exception as error:
        told = storage_error(error, path)
        if told is None:
            raise
        raise told from error


@contextlib.contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path` to write to; it takes the place of `path` when the block ends without an error.

    The temporary name keeps the suffixes of `path`, since some writers choose their format by them.

    Raises:
        StorageError: the disk is full, or may not be written to.
    """
    path = Path(path)
    temporary = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


@contextlib.contextmanager
def atomic_dir(path: str | Path) -> Iterator[Path]:
    """A temporary folder beside `path` that replaces the folder `path` when the block ends without an error.

    Raises:
        StorageError: the disk is full, or may not be written to.
    """
    path = Path(path)
    with writing(path), contextlib.ExitStack() as ending:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
        ending.callback(shutil.rmtree, temporary, ignore_errors=True)
        temporary.chmod(0o755)  # mkdtemp lets nobody else read
        yield temporary
        shutil.rmtree(path, ignore_errors=True)
        os.replace(temporary, path)


def write_json(path: str | Path, content: dict[str, Any]) -> None:
    """Write `content` with the schema version, atomically."""
    with atomic(path) as temporary:
        temporary.write_text(json.dumps({"schema_version": SCHEMA_VERSION, **content}, indent=2, ensure_ascii=False) + "\n")


def read_json(path: str | Path) -> dict[str, Any]:
    """Read what `write_json` wrote.

    Raises:
        ArtifactError: the file is absent, no JSON, or of another schema version.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise ArtifactError(f"{path}: no such file; run the step that makes it") from None
    except ValueError as error:
        raise ArtifactError(f"{path}: not valid JSON ({error}); delete it and run the step that makes it again") from error
    version = content.get("schema_version") if isinstance(content, dict) else None
    if version != SCHEMA_VERSION:
        raise ArtifactError(f"{path}: schema_version is {version}, this earshot reads {SCHEMA_VERSION}; delete the file and run again")
    return content


def sha256(path: str | Path) -> str:
    """Hex digest of a file's bytes."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextlib.contextmanager
def gzip_writer(path: str | Path) -> Iterator[gzip.GzipFile]:
    """A stream of bytes into `path` (.gz), which appears when the block ends without an error; the same bytes give the same file."""
    with atomic(path) as temporary, open(temporary, "wb") as raw, gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as stream:
        yield stream


def damage(path: str | Path) -> str | None:
    """What is wrong with a ZIP archive, as PyTorch writes them, by its checksums, which PyTorch does not look at; None if nothing is."""
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, NotImplementedError) as error:
        return str(error) or type(error).__name__
    return broken and f"the checksum of {broken} in it is wrong"
