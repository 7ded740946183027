"""Subsets that are missing are fetched: checked, resumed, and unpacked so that nothing lands elsewhere."""

from __future__ import annotations

import hashlib
import io
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from corpus_trees import SPLITS, config, write_tree

from earshot.config import LibriSpeech
from earshot.corpus import download, librispeech
from earshot.errors import ConfigError, DataError

SUBSET = "train-clean-5"
URL_PATH = f"/31/{SUBSET}.tar.gz"


class Mirror(ThreadingHTTPServer):
    """Serves `content` at URL_PATH, with ranges; each connection ends after `limits.pop(0)` bytes while there are limits."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.content = b""
        self.limits: list[int] = []
        self.ranges: list[str | None] = []
        self.understands_ranges = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Answer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        mirror: Mirror = self.server
        asked = self.headers.get("Range")
        mirror.ranges.append(asked)
        if self.path != URL_PATH:
            self.send_error(404)
            return
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and mirror.understands_ranges else 0
        if start >= len(mirror.content):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(mirror.content) - start))
        self.end_headers()
        limit = mirror.limits.pop(0) if mirror.limits else len(mirror.content)
        self.wfile.write(mirror.content[start : start + limit])

    def log_message(self, *args) -> None:
        pass


@pytest.fixture
def mirror():
    server = Mirror()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def archive_of(tree: Path, extra: tarfile.TarInfo | None = None, content: bytes = b"") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        tar.add(tree / SUBSET, f"LibriSpeech/{SUBSET}")
        if extra is not None:
            extra.size = len(content)
            tar.addfile(extra, io.BytesIO(content))
    return buffer.getvalue()


@pytest.fixture
def setting(tmp_path, mirror):
    """The mirror has the subset, and the root has the two others."""
    source = write_tree(tmp_path / "source", {SUBSET: [1, 2]})
    root = write_tree(tmp_path / "LibriSpeech", {name: speakers for name, speakers in SPLITS.items() if name != SUBSET})
    mirror.content = archive_of(source)
    return root, config(root, download=True, mirror=mirror.url, checksums={SUBSET: f"sha256:{hashlib.sha256(mirror.content).hexdigest()}"})


def names(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir())


def test_missing_subset_is_fetched_once_and_the_others_are_left_alone(setting, mirror):
    root, cfg = setting
    found, splits = librispeech.locate(cfg)
    assert found == root and splits["train"] == [SUBSET]
    assert len(list((root / SUBSET).rglob("*.flac"))) == 6
    assert names(root) == ["dev-clean-2", "test-clean", SUBSET]  # neither archive nor partial files are left
    librispeech.locate(cfg)
    assert mirror.ranges == [None]


def test_broken_connections_are_resumed_where_they_broke(setting, mirror):
    root, cfg = setting
    mirror.limits = [50_000, 70_000]
    librispeech.locate(cfg)
    assert mirror.ranges == [None, "bytes=50000-", "bytes=120000-"]
    assert len(list((root / SUBSET).rglob("*.flac"))) == 6


def test_later_run_goes_on_from_what_was_kept(setting, mirror, monkeypatch):
    root, cfg = setting
    monkeypatch.setattr(download, "ATTEMPTS", 1)
    mirror.limits = [50_000, 0]
    with pytest.raises(DataError, match=r"50000 bytes are kept in .*train-clean-5.tar.gz.part, run again"):
        librispeech.locate(cfg)
    assert not (root / SUBSET).exists()
    librispeech.locate(cfg)
    assert mirror.ranges[-1] == "bytes=50000-" and (root / SUBSET).is_dir()


def test_server_without_ranges_starts_again(setting, mirror):
    root, cfg = setting
    mirror.understands_ranges = False
    mirror.limits = [50_000]
    librispeech.locate(cfg)
    assert len(list((root / SUBSET).rglob("*.flac"))) == 6


def test_wrong_checksum_is_told_and_the_archive_deleted(setting, mirror):
    root, cfg = setting
    content = bytearray(mirror.content)
    content[1000] ^= 1
    mirror.content = bytes(content)
    with pytest.raises(DataError, match=r"train-clean-5.tar.gz: sha256 of what came is .*, expected .*corpus.mirror"):
        librispeech.locate(cfg)
    assert names(root) == ["dev-clean-2", "test-clean"]


def test_official_checksum_holds_where_none_is_given(setting):
    _, cfg = setting
    cfg.checksums = {}
    with pytest.raises(DataError, match="expected 5df7d4e78065366204ca6845bb08f490"):
        librispeech.locate(cfg)


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


EVIL = {
    "above": member("../../evil.txt"),
    "absolute": member("/tmp/../evil.txt"),
    "symbolic link": member(f"LibriSpeech/{SUBSET}/link", tarfile.SYMTYPE, "/etc/passwd"),
    "hard link": member(f"LibriSpeech/{SUBSET}/link", tarfile.LNKTYPE, "../../../evil"),
    "device": member(f"LibriSpeech/{SUBSET}/null", tarfile.CHRTYPE),
}


@pytest.mark.parametrize("extra", EVIL.values(), ids=EVIL.keys())
def test_archive_that_points_outside_is_refused(setting, mirror, tmp_path, extra):
    root, cfg = setting
    mirror.content = archive_of(tmp_path / "source", extra, b"evil" if extra.isreg() else b"")
    cfg.checksums = {SUBSET: f"md5:{hashlib.md5(mirror.content).hexdigest()}"}
    with pytest.raises(DataError, match=r"train-clean-5.tar.gz: .*not to be trusted"):
        librispeech.locate(cfg)
    assert not (root / SUBSET).exists() and not list(tmp_path.rglob("evil*")) and not Path("/evil.txt").exists()


@pytest.mark.parametrize("content", [b"no archive at all", b""], ids=["text", "cut"])
def test_damaged_archive_is_told(setting, mirror, content):
    root, cfg = setting
    mirror.content = content or mirror.content[:-5000]
    cfg.checksums = {SUBSET: f"md5:{hashlib.md5(mirror.content).hexdigest()}"}
    with pytest.raises(DataError, match="cannot be unpacked"):
        librispeech.locate(cfg)
    assert not (root / SUBSET).exists()


def test_file_or_server_that_is_not_there(setting, mirror, monkeypatch):
    _, cfg = setting
    monkeypatch.setattr(download, "ATTEMPTS", 1)
    cfg.mirror = f"{mirror.url}/elsewhere"
    with pytest.raises(DataError, match=r"elsewhere/31/train-clean-5.tar.gz: HTTP 404 .*check corpus.mirror"):
        librispeech.locate(cfg)
    cfg.mirror = "http://127.0.0.1:9"
    with pytest.raises(DataError, match=r"refused; 0 bytes are kept.*corpus.download=false"):
        librispeech.locate(cfg)


def test_checksum_of_unknown_form_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"checksums: train-clean-5: 'crc:12' is not sha256:HEX or md5:HEX"):
        LibriSpeech(root="x", checksums={SUBSET: "crc:12"})
