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


def words_of(stage: str, out: Path, noises: Path) -> list[str]:
    return {
        "tokenizer": lambda: [f"corpus_dir={noises / 'corpus'}", f"out={out}", "tokenizer.vocab_size=18"],
        "features": lambda: features_of(noises, out),
        "train": lambda: training_of(noises, out),
    }[stage]()


def words_in_workflow(stage: str, out: Path, whole: Path) -> list[str]:
    """Of steps that need what others made."""
    results = whole / "results"
    (model,), (corpus,), (program,) = (results.glob(pattern) for pattern in ("train/*", "corpus/*", "programs/*/*/host"))
    return {
        "quantize": [f"model_dir={model}", f"corpus_dir={corpus}", f"out={out}", "quant=dynamic_int8", "family=host", "window=4s"],
        "lower": [f"program_dir={program}", f"out={out}", "target=host"],
        "evaluate": ["kind=float", f"subject={model}", f"corpus_dir={corpus}", f"out={out / 'evaluation.json'}", "window=4s"],
        "report": [f"variants=[{results / 'report' / 'variants.txt'}]", f"out={out}"],
    }[stage]


@pytest.mark.parametrize("stage", ["tokenizer", "features", "train", "quantize", "lower", "evaluate", "report"])
def test_results_that_may_not_be_written_are_named(request, tmp_path, monkeypatch, stage):
    words, made = (words_of, "noises") if stage in ("tokenizer", "features", "train") else (words_in_workflow, "whole")
    folder = request.getfixturevalue(made)
    with disks.small(tmp_path / "disk", "1m") as disk:
        (disk / stage).mkdir()
        disks.remount(disk, "ro")
        if made == "whole":
            monkeypatch.chdir(folder)  # which the paths of its variants begin at
        message = fails(stage, *words(stage, disk / stage, folder))
        assert str(disk / stage) in message and "Read-only file system" in message and "let this user write there" in message
