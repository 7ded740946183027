"""A disk that gets full, and one that may not be written: told in one line, nothing is lost, and the same step goes on."""

from __future__ import annotations

import os
import re
from pathlib import Path

import disks
import pytest
import torch
from stage_command import fails, run
from tiny_steps import features_of, training_of

from earshot.corpus.manifest import load_cuts
from earshot.errors import StorageError
from earshot.feature_store import load
from earshot.files import atomic
from earshot.model import checkpoint
from earshot.train.checkpoints import TwoGenerations


def same_features(one: Path, other: Path) -> bool:
    pairs = zip(*(load_cuts(folder / "train.cuts.jsonl.gz") for folder in (one, other)), strict=True)
    same_statistics = (one / "stats.json").read_bytes() == (other / "stats.json").read_bytes()
    return same_statistics and all(a.id == b.id and torch.equal(load(a), load(b)) for a, b in pairs)


def test_features_on_a_full_disk_go_on_where_they_stopped(noises, tmp_path):
    with disks.small(tmp_path / "disk", "112k") as disk:
        message = fails("features", *features_of(noises, disk / "features"))
        assert re.search(r"disk/features/.*: cannot be written \(No space left on device.*free some space", message), message
        finished = {path: path.stat().st_mtime_ns for path in disk.rglob("000000.lca")}
        assert finished, "one shard was whole before the disk was full"
        disks.remount(disk, "size=4m")
        run("features", *features_of(noises, disk / "features"))
        assert all(path.stat().st_mtime_ns == written for path, written in finished.items())
        assert same_features(disk / "features", noises / "features")


def test_a_training_outlives_a_full_disk(noises, tmp_path, capsys, monkeypatch):
    """Checkpoints that do not fit are told, the one before them is kept, and with some space the training ends as if nothing had been."""
    run("train", *training_of(noises, tmp_path / "whole"))
    capsys.readouterr()
    with disks.small(tmp_path / "disk", "4m") as disk:
        save, full = TwoGenerations.save_checkpoint, disk / "full"

        def filling(self: TwoGenerations, content: dict, path: Path, storage_options: object = None) -> None:
            if content["global_step"] == 3:
                free = os.statvfs(disk)
                full.write_bytes(b"0" * (free.f_bavail * free.f_frsize - (16 << 10)))  # the curves, of some KiB, still find room
            save(self, content, path, storage_options)

        monkeypatch.setattr(TwoGenerations, "save_checkpoint", filling)
        message = fails("train", *training_of(noises, disk / "model"))
        assert "cannot be written (No space left on device" in message and str(disk / "model") in message
        assert "last.ckpt: not written" in capsys.readouterr().out
        assert torch.load(disk / "model" / "state" / "last.ckpt", weights_only=True)["global_step"] == 2
        monkeypatch.undo()
        full.unlink()
        run("train", *training_of(noises, disk / "model"))
        ended, wanted = (checkpoint.read_weights(folder / "model.safetensors")[0] for folder in (disk / "model", tmp_path / "whole"))
        assert all(torch.equal(ended[name], wanted[name]) for name in wanted)


def test_libraries_that_do_not_say_why_they_cannot_write(tmp_path):
    """PyTorch raises an error of its own on a full disk."""
    with disks.small(tmp_path / "disk", "64k") as disk:
        with pytest.raises(StorageError, match=r"a\.pt: cannot be written \(No space left on device"), atomic(disk / "a.pt") as temporary:
            torch.save(torch.zeros(100_000), temporary)
        with pytest.raises(StorageError, match=r"b\.safetensors: cannot be written \(No space left on device"):
            checkpoint.write_weights(disk / "b.safetensors", {"zeros": torch.zeros(100_000)}, {})
        assert not list(disk.iterdir()), "nothing is left of them"


@pytest.mark.parametrize("stage", ["tokenizer", "features", "train"])
def test_results_that_may_not_be_written_are_named(noises, tmp_path, stage):
    words = {
        "tokenizer": lambda out: [f"corpus_dir={noises / 'corpus'}", f"out={out}", "tokenizer.vocab_size=18"],
        "features": lambda out: features_of(noises, out),
        "train": lambda out: training_of(noises, out),
    }[stage]
    with disks.small(tmp_path / "disk", "1m") as disk:
        (disk / stage).mkdir()
        disks.remount(disk, "ro")
        message = fails(stage, *words(disk / stage))
        assert str(disk / stage) in message and "Read-only file system" in message and "let this user write there" in message
