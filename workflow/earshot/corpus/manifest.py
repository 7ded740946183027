"""Manifests: lhotse CutSets, written and read as a stream, one utterance at a time."""

from __future__ import annotations

import contextlib
import gzip
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lhotse import AudioSource, CutSet, MonoCut, Recording, SupervisionSegment
from lhotse.lazy import LazyManifestIterator

from earshot import files
from earshot.config import SAMPLE_RATE_HZ
from earshot.corpus.audio import read_audio
from earshot.errors import ArtifactError

__all__ = ["Item", "ManifestWriter", "load_cuts", "read_audio", "write_cuts"]


@dataclass(frozen=True)
class Item:
    """A usable utterance."""

    id: str
    path: str
    speaker: str
    text: str
    samples: int
    md5: str  # of the decoded samples

    @property
    def duration_s(self) -> float:
        return self.samples / SAMPLE_RATE_HZ

    def cut(self) -> MonoCut:
        """As lhotse has it: a whole recording with one supervision."""
        recording = Recording(self.id, [AudioSource("file", [0], self.path)], SAMPLE_RATE_HZ, self.samples, self.duration_s)
        supervision = SupervisionSegment(
            self.id, self.id, 0.0, self.duration_s, 0, text=self.text, language="English", speaker=self.speaker
        )
        return MonoCut(self.id, 0.0, self.duration_s, 0, [supervision], recording=recording)


class ManifestWriter:
    """Writes items to a file of cuts; the same items give the same bytes."""

    def __init__(self, stream: gzip.GzipFile) -> None:
        self._stream = stream

    def write(self, item: Item) -> None:
        self._stream.write(json.dumps(item.cut().to_dict(), ensure_ascii=False).encode() + b"\n")


@contextlib.contextmanager
def write_cuts(path: str | Path) -> Iterator[ManifestWriter]:
    """A writer for `path` (.jsonl.gz); the file appears when the block ends without an error."""
    with files.gzip_writer(path) as stream:
        yield ManifestWriter(stream)


def load_cuts(path: str | Path) -> CutSet:
    """The cuts of a manifest, lazily: each pass reads the file again.

    Raises:
        ArtifactError: the file is absent, damaged or empty.
    """
    path = Path(path)
    try:
        with gzip.open(path, "rb") as stream:
            json.loads(stream.readline())
            # gzip's checksum stands at the end: to read through is to know that the rest is whole.
            while stream.read(1 << 20):
                pass
    except FileNotFoundError:
        raise ArtifactError(f"{path}: no such manifest; run the step that makes it") from None
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise ArtifactError(f"{path}: damaged manifest ({error or 'empty'}); delete it and run the step that makes it again") from error
    return CutSet(_Lines(path))


class _Lines(LazyManifestIterator):
    """The cuts of a manifest, a line each.

    Raises:
        ArtifactError: a line is no cut, when it is its turn.
    """

    def __iter__(self) -> Iterator[MonoCut]:
        good = 0
        try:
            for cut in super().__iter__():
                if not isinstance(cut, MonoCut):
                    raise TypeError(type(cut).__name__)
                good += 1
                yield cut
        except (ValueError, LookupError, TypeError, AttributeError, AssertionError) as error:
            reason = f"damaged manifest, after {good} good lines one is no utterance ({type(error).__name__})"
            raise ArtifactError(f"{self.path}: {reason}; delete it and run the step that makes it again") from error
