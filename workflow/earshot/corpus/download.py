"""Fetching large archives: resumable, checked, unpacked so that nothing lands outside the folder meant for it."""

from __future__ import annotations

import hashlib
import http.client
import os
import shutil
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from earshot.errors import DataError

ATTEMPTS = 5  # in a row that bring no new byte
TIMEOUT_S = 60
BLOCK = 1 << 20
DISTRUST = "the archive is not to be trusted: delete it and use another corpus.mirror"
BYTES = {"unit": "B", "unit_scale": True, "unit_divisor": 1024, "disable": None}


@dataclass(frozen=True)
class Keys:
    """What errors advise."""

    mirror: str  # the key that names the server
    by_hand: str  # how to do without it
    room: str  # what to do where the disk is too small


CORPUS = Keys("corpus.mirror", "fetch and unpack it yourself and set corpus.download=false", "make room or set corpus.root to another disk")


def fetch(url: str, path: Path, checksum: str, keys: Keys = CORPUS) -> None:
    """Bring `url` to `path`. What has come is kept beside it as *.part, and a later call goes on from there.

    Args:
        checksum: "sha256:HEX" or "md5:HEX".
        keys: what errors advise.

    Raises:
        DataError: the server cannot be reached or has no such file, the disk is too small, or the checksum differs.
    """
    part = path.with_name(path.name + ".part")
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        _fetch_part(url, part, keys)
        os.replace(part, path)
    algorithm, _, expected = checksum.partition(":")
    if (found := _digest(path, algorithm)) != expected.lower():
        path.unlink()  # more bytes would not repair it
        raise DataError(
            f"{url}: {algorithm} of what came is {found}, expected {expected}; it is deleted: run again to fetch it anew,"
            f" or choose another {keys.mirror}"
        )


def _fetch_part(url: str, part: Path, keys: Keys) -> None:
    failures = 0
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            if _append(url, part, before, keys):
                return
            reason = "the connection ended early"
        except urllib.error.HTTPError as error:
            reason = f"HTTP {error.code} {error.reason}"
            if error.code < 500 and error.code not in (408, 429):
                raise DataError(f"{url}: {reason}; check {keys.mirror}") from None
        except (OSError, http.client.HTTPException) as error:
            reason = str(getattr(error, "reason", None) or error or type(error).__name__)
        now = part.stat().st_size if part.exists() else 0
        failures = 0 if now > before else failures + 1
        if failures == ATTEMPTS:
            raise DataError(f"{url}: {reason}; {now} bytes are kept in {part}, run again to go on from there, or {keys.by_hand}")
        time.sleep(min(2**failures, 10) / 2)


def _append(url: str, part: Path, have: int, keys: Keys) -> bool:
    """Add to `part` what `url` has beyond the first `have` bytes; whether that is all of it now."""
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:  # nothing beyond: it is whole, and the checksum says whether it is right
            return True
        raise
    with response:
        if response.status != 206:  # the server sends all of it again
            have = 0
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else None
        free = shutil.disk_usage(part.parent).free
        if total and free < (needed := 2 * total - have):  # the archive, and what is unpacked from it
            raise DataError(f"{part.parent}: {free >> 20} MiB free, {url} needs {needed >> 20} MiB; {keys.room}")
        with open(part, "ab" if have else "wb") as file, tqdm(total=total, initial=have, desc=part.stem, **BYTES) as bar:
            while block := response.read(BLOCK):
                file.write(block)
                bar.update(len(block))
            return total is None or file.tell() == total


def _digest(path: Path, algorithm: str) -> str:
    digest = hashlib.new(algorithm)
    with open(path, "rb") as file, tqdm(total=path.stat().st_size, desc=f"{algorithm} of {path.name}", **BYTES) as bar:
        while block := file.read(BLOCK):
            digest.update(block)
            bar.update(len(block))
    return digest.hexdigest()


def unpack(archive: Path, folder: str, target: Path) -> None:
    """Unpack `folder` of a .tar.gz as `target`, which appears when all of it is there.

    Only plain files and folders below the archive's root are taken (PEP 706, filter `data`).

    Raises:
        DataError: a member is a link or device or points outside, the archive is damaged or has no such folder.
    """
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        with (
            open(archive, "rb") as raw,
            tarfile.open(fileobj=raw, mode="r|gz") as tar,
            tqdm(total=archive.stat().st_size, desc=f"unpacking {archive.name}", **BYTES) as bar,
        ):
            for member in tar:
                parts = PurePosixPath(member.name).parts
                if not (member.isreg() or member.isdir()) or ".." in parts or "/" in parts:
                    raise DataError(f"{archive}: {member.name!r} is a link, a device or points outside; {DISTRUST}")
                tar.extract(member, temporary, filter="data")
                bar.update(raw.tell() - bar.n)
        if not (temporary / folder).is_dir():
            raise DataError(f"{archive}: no folder {folder} in it; {DISTRUST}")
        os.replace(temporary / folder, target)
    except tarfile.FilterError as error:
        raise DataError(f"{archive}: {error}; {DISTRUST}") from error
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise DataError(f"{archive}: cannot be unpacked ({error}); delete it and run again, or make room on the disk") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
