"""A bit that is another one: whoever reads the file names it and says what to do, and doing that gives what was there before."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from stage_command import fails, run
from tiny_steps import features_of, training_of

from earshot.errors import ArtifactError
from earshot.files import damage
from earshot.model import checkpoint


def flip(path: Path, part: float = 0.5) -> None:
    """Change one bit of a file, at this part of its length."""
    content = bytearray(path.read_bytes())
    content[int(len(content) * part)] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("part", [0.5, *(pytest.param(part, marks=pytest.mark.slow) for part in (0.05, 0.99))])
def test_a_shard_of_features(noises, tmp_path, part, capfd):
    features = tmp_path / "features"
    run("features", *features_of(noises, features))
    archives, manifest = sorted(features.rglob("train-*/*.lca")), (features / "train.cuts.jsonl.gz").read_bytes()
    before = [path.read_bytes() for path in archives]
    flip(archives[1], part)
    message = fails("train", *training_of(noises, tmp_path / "model", features))
    assert f"{archives[1]}: damaged, the features of train-" in message and "run the features step again" in message
    written = archives[0].stat().st_mtime_ns
    run("features", *features_of(noises, features))
    assert "000001: a shard of an earlier run is damaged" in capfd.readouterr().out
    assert [path.read_bytes() for path in archives] == before
    assert archives[0].stat().st_mtime_ns == written, "the others are left alone"
    assert (features / "train.cuts.jsonl.gz").read_bytes() == manifest, "a training that was interrupted goes on with them"


@pytest.mark.parametrize("name", ["000001.lca", "000001.npz", "000001.jsonl.gz"])
def test_half_of_a_shard_is_made_again(noises, tmp_path, name):
    features = tmp_path / "features"
    run("features", *features_of(noises, features))
    before = {path: path.read_bytes() for path in features.rglob("*") if path.is_file()}
    (path,) = features.rglob(f"train-*/{name}")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    run("features", *features_of(noises, features))
    assert {path: path.read_bytes() for path in features.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("part", [0.001, 0.3, 0.6, 0.99])
def test_weights(tmp_path, part):
    path = tmp_path / "model.safetensors"
    weights = {"weight": torch.randn(20, 30), "count": torch.tensor(3)}
    checkpoint.write_weights(path, weights, {"model": '{"heads": 4}'})
    assert all(torch.equal(checkpoint.read_weights(path)[0][name], weights[name]) for name in weights)
    flip(path, part)
    with pytest.raises(ArtifactError, match=r"model\.safetensors: damaged.*run the training step again"):
        checkpoint.read_weights(path)


def test_a_checkpoint_of_a_training(noises, tmp_path, capfd):
    """The one before it is gone on with, and the training ends with the weights of one that was left alone."""
    run("train", *training_of(noises, tmp_path / "whole"))
    run("train", *training_of(noises, tmp_path / "model"))
    state = tmp_path / "model" / "state"
    flip(state / "last.ckpt")
    assert torch.load(state / "last.ckpt", weights_only=True), "PyTorch itself does not see it"
    run("train", *training_of(noises, tmp_path / "model"))
    assert "last.ckpt: damaged" in capfd.readouterr().out and (state / "last.ckpt.damaged").exists()
    ended, wanted = (checkpoint.read_weights(tmp_path / name / "model.safetensors")[0] for name in ("model", "whole"))
    assert all(torch.equal(ended[name], wanted[name]) for name in wanted)


def test_archives_of_pytorch(tmp_path):
    """As checkpoints and .pt2 programs are."""
    path = tmp_path / "a.pt"
    torch.save({"weights": torch.randn(1000)}, path)
    assert damage(path) is None
    flip(path)
    assert "checksum" in damage(path)
    path.write_bytes(path.read_bytes()[:2000])
    assert damage(path)


# ------------------------------------------------------------ of a whole workflow


def stages_of(results: Path) -> dict[str, tuple[str, list[str]]]:
    """What is damaged, which step then reads it, and with which words."""
    (model,) = results.glob("train/*/model.safetensors")
    (scheme,) = results.glob("programs/*/*")
    (corpus,) = results.glob("corpus/*/test.cuts.jsonl.gz")
    host, u85 = (results / "variants" / model.parent.name / scheme.name / name for name in ("host", "u85_256"))
    corpus_dir, evaluation = (
        f"corpus_dir={corpus.parent}",
        ["window=4s", "evaluation.reference_utterances=0", "evaluation.timing_utterances=1"],
    )
    out = f"out={results / 'other' / 'evaluation.json'}"
    quantize = ["quant=int8_pc", "calib.utterances=4", "window=4s", "family=host", f"model_dir={model.parent}", corpus_dir]
    return {
        str(model): ("quantize", [*quantize, f"out={results / 'other'}"]),
        str(scheme / "u85" / "quantized.pt2"): ("tosa", [f"program_dir={scheme / 'u85'}"]),
        str(scheme / "host" / "quantized.pt2"): ("lower", ["target=host", f"program_dir={scheme / 'host'}", f"out={results / 'other'}"]),
        str(scheme / "u85" / "graph.tosa"): ("lower", ["target=u85_256", f"program_dir={scheme / 'u85'}", f"out={results / 'other'}"]),
        str(host / "model.pte"): ("evaluate", ["kind=variant", f"subject={host}", corpus_dir, out, *evaluation]),
        str(u85 / "graph.tosa"): ("transcribe", [f"program={u85 / 'model.pte'}", f"audio={next(corpus.parent.rglob('*.flac'))}"]),
        str(corpus): ("evaluate", ["kind=float", f"subject={model.parent}", corpus_dir, out, *evaluation]),
    }


@pytest.mark.slow
@pytest.mark.parametrize("part", [0.2, 0.5, 0.8])
def test_every_file_between_the_steps(whole, monkeypatch, part):
    monkeypatch.chdir(whole)
    for name, (stage, words) in stages_of(Path("results")).items():
        path = Path(name)
        before, written = path.read_bytes(), path.stat().st_mtime_ns
        flip(path, part)
        try:
            message = fails(stage, *words)
        finally:
            path.write_bytes(before)
            os.utime(path, ns=(written, written))  # else Snakemake would make anew what depends on it
        assert f"{path}: damaged" in message and "again" in message, (name, message)
