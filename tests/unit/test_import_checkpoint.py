"""The import stage: files of others in, a model directory out that the later stages take; each mistake is one clear line."""

from __future__ import annotations

import json

import numpy as np
import pytest
import safetensors.torch
import sentencepiece
import torch
from harmful import Harmful
from public_conformer import PublicConformer, as_trained
from stage_command import fails, run
from tiny_recognizer import noise, write_corpus, write_model

from earshot.config import Features
from earshot.features import LogMel
from earshot.model import checkpoint
from earshot.quantize import program

PIECES = ["<unk>", "<s>", "▁go", "▁on", "s", "▁stop"]
TEXTS = ["turn on the light", "stop the music", "go to the next song", "set a timer of ten minutes"]


def network(outputs: int) -> PublicConformer:
    torch.manual_seed(3)
    return as_trained(PublicConformer(outputs, 80, 16, 1, 2, 5))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What people have: a checkpoint, its vocabulary, and what the network gave for some features."""
    folder = tmp_path_factory.mktemp("import")
    original = network(len(PIECES) + 1)
    torch.save({"epoch": 3, "model": original.state_dict()}, folder / "model.pt")
    (folder / "vocabulary.txt").write_text("".join(f"{piece}\n" for piece in PIECES))
    features = torch.randn(1, 90, 80)
    with torch.no_grad():
        np.savez(folder / "check.npz", features=features.numpy(), logits=original(features).numpy())
    return folder


def words(folder, **changes) -> list[str]:
    given = {"checkpoint": folder / "model.pt", "tokenizer": folder / "vocabulary.txt", "blank": 0, "out": folder / "out"}
    return [f"{key}={value}" for key, value in (given | changes).items() if value is not None]


def imported(folder, *more: str, **changes) -> checkpoint.Recognizer:
    run("import_checkpoint", *words(folder, **changes), *more)
    return checkpoint.load(changes.get("out", folder / "out"))


def test_a_model_directory_comes_out(folder):
    recognizer = imported(folder, check=folder / "check.npz")
    assert recognizer.pieces == ["<blank>", "<unk>", "<unk>", "▁GO", "▁ON", "S", "▁STOP"]
    assert recognizer.config["model"]["dim"] == 16
    assert json.loads((folder / "out" / "metrics.json").read_text())["difference_to_original"] < 1e-5
    audio = noise(1.0, 0)  # unnormalised without statistics
    torch.testing.assert_close(recognizer.front_end(audio), LogMel(Features())(audio))


def test_the_last_output_may_be_the_blank(folder):
    original = network(7)
    recognizer = imported(folder, blank=-1, letter_case="keep")
    assert recognizer.pieces == ["<blank>", "<unk>", "<unk>", *PIECES[2:]]
    x = torch.randn(1, 50, 80)
    with torch.no_grad():
        torch.testing.assert_close(recognizer.model(x).log_softmax(-1), original(x).roll(1, dims=-1), atol=1e-5, rtol=0)


def test_a_vocabulary_with_indices_and_a_blank_needs_no_option(folder, tmp_path):
    named = [*PIECES[:4], "<blk>", *PIECES[4:]]
    rows = [f"{piece} {i}\n" for i, piece in enumerate(named)]
    (tmp_path / "tokens.txt").write_text("".join(reversed(rows)))
    recognizer = imported(folder, tokenizer=tmp_path / "tokens.txt", blank=None)
    assert recognizer.pieces == ["<blank>", "<unk>", "<unk>", "▁GO", "▁ON", "S", "▁STOP"]
    weight = network(7).fc.linear.weight
    torch.testing.assert_close(recognizer.model.output.weight, weight[[4, 0, 1, 2, 3, 5, 6]])


def test_a_sentencepiece_model_gives_the_pieces(folder, tmp_path):
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS * 20), model_prefix=str(tmp_path / "tokenizer"), vocab_size=24, minloglevel=2
    )
    torch.save(network(25).state_dict(), tmp_path / "model.pth")
    recognizer = imported(folder, checkpoint=tmp_path / "model.pth", tokenizer=tmp_path / "tokenizer.model")
    model = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))
    spoken = [model.id_to_piece(i).upper() for i in range(3, 24)]  # after unknown, start and end
    assert recognizer.pieces == ["<blank>", "<unk>", "<unk>", "<unk>", *spoken]


def test_safetensors_and_statistics(folder, tmp_path):
    safetensors.torch.save_file({f"model.{name}": t for name, t in network(7).state_dict().items()}, tmp_path / "model.safetensors")
    (tmp_path / "stats.json").write_text(json.dumps({"mean": [-5.0] * 80, "std": [2.0] * 80}))
    recognizer = imported(folder, checkpoint=tmp_path / "model.safetensors", statistics=tmp_path / "stats.json")
    audio = noise(1.0, 0)
    torch.testing.assert_close(recognizer.front_end(audio), (LogMel(Features())(audio) + 5) / 2)


def test_the_front_end_of_arm_s_example(folder):
    """log(mel + 1e-6) over windows of 512 samples, whose arithmetic is written out here."""
    recognizer = imported(folder, "features=logmel80_arm")
    audio = torch.from_numpy(noise(0.5, 1))
    frames = audio.unfold(0, 512, 160) * torch.hann_window(512)
    constants = recognizer.front_end.log_mel.mel.mel_scale.fb
    energies = torch.fft.rfft(frames).abs() ** 2 @ constants
    torch.testing.assert_close(recognizer.front_end(audio), (energies + 1e-6).log(), atol=1e-3, rtol=1e-4)


def test_it_goes_on_to_quantization(folder):
    imported(folder, "features=logmel80_arm", out=folder / "model")
    for split in ("train", "dev", "test"):
        write_corpus(folder / "corpus", [1.0, 1.5], ["GO"] * 2, split)
    given = (f"model_dir={folder / 'model'}", f"corpus_dir={folder / 'corpus'}", f"out={folder / 'program'}")
    run("quantize", "quant=int8_pc", "family=host", "window.seconds=1.5", "window.overlap_s=0.5", "calib.utterances=2", *given)
    quantized, recognizer = program.load(folder / "program"), checkpoint.load(folder / "model")
    features = recognizer.front_end(noise(1.6, 5))[: quantized.window_frames]
    with torch.no_grad():
        logits = recognizer.model(features[None])[0]
    error = quantized(features) - logits
    assert 10 * torch.log10(logits.square().sum() / error.square().sum()) > 15  # dB


def test_a_model_that_earshot_trained_comes_back(folder, tmp_path):
    """As export_model leaves it: a folder that was moved."""
    model = write_model(tmp_path / "exported" / "model")
    given = {"checkpoint": model / "model.safetensors", "tokenizer": model / "tokenizer.pieces", "blank": None}
    recognizer, own = imported(folder, **given, out=tmp_path / "out"), checkpoint.load(model)
    x = torch.randn(1, 50, 80)
    assert torch.equal(recognizer.model(x), own.model(x)) and recognizer.pieces == own.pieces
    assert torch.equal(recognizer.front_end.mean, own.front_end.mean)
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["implementation"] == "earshot"
    (tmp_path / "other.pieces").write_text("<blank>\na\n")
    said = fails("import_checkpoint", *words(folder, **{**given, "tokenizer": tmp_path / "other.pieces", "out": tmp_path / "no"}))
    assert "other.pieces: not the tokenizer of" in said and "model/tokenizer.pieces" in said
    said = fails("import_checkpoint", *words(folder, **given, out=tmp_path / "no"), "features=logmel80_arm")
    assert "model.safetensors: trained with another front end; give features.win_length=400 features.f_min_hz=20.0" in said
    assert not (tmp_path / "no").exists()


@pytest.fixture
def bad_files(folder, tmp_path):
    whole = (folder / "model.pt").read_bytes()
    (tmp_path / "damaged.pt").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.pt").write_text("no checkpoint")
    (tmp_path / "damaged.safetensors").write_bytes(b"\0" * 50)
    torch.save({"state_dict": Harmful(tmp_path / "written")}, tmp_path / "harmful.pt")
    torch.save({"optimizer": {"lr": 0.1}}, tmp_path / "optimizer.pt")
    state = network(7).state_dict()
    state["fc.linear.weight"][0, 0] = float("nan")
    torch.save(state, tmp_path / "nan.pt")
    (tmp_path / "short.txt").write_text("a\nb\n")
    (tmp_path / "gap.txt").write_text("a\n\nb\n")
    (tmp_path / "no.model").write_text("no model")
    (tmp_path / "stats.json").write_text('{"mean": [1, 2], "std": [1, 0]}')
    (tmp_path / "front_end.json").write_text(json.dumps({"mean": [1] * 80, "std": [1] * 80, "config": {"win_length": 512}}))
    np.savez(tmp_path / "other.npz", features=np.zeros((90, 80)), logits=np.eye(21, 7))
    np.savez(tmp_path / "empty.npz", features=np.zeros((90, 80)))
    return tmp_path


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("checkpoint", "absent.pt", "no such file"),
        ("checkpoint", "damaged.pt", "damaged"),
        ("checkpoint", "text.pt", "damaged"),
        ("checkpoint", "damaged.safetensors", "damaged"),
        ("checkpoint", "harmful.pt", "run code"),
        ("checkpoint", "optimizer.pt", "holds optimizer, not a state dict"),
        ("checkpoint", "nan.pt", "fc.linear.weight holds values that are not finite"),
        ("tokenizer", "absent.model", "no such file"),
        ("tokenizer", "no.model", "no SentencePiece model"),
        ("tokenizer", "short.txt", "2 pieces, but the checkpoint has 7 outputs: expected 6 and a blank"),
        ("tokenizer", "gap.txt", "line 2"),
        ("statistics", "stats.json", "2 means and 2 deviations"),
        ("statistics", "front_end.json", "win_length=512"),
        ("check", "other.npz", "differs from the original"),
        ("check", "empty.npz", "not an .npz"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(folder, bad_files, key, value, message):
    said = fails("import_checkpoint", *words(folder, **{key: bad_files / value, "out": bad_files / "out"}))
    assert message in said and value in said
    assert not (bad_files / "out").exists()
    assert not (bad_files / "written").exists()


def test_the_harmful_pickle_would_have_written_a_file(bad_files):
    """Else the test above could not fail."""
    torch.load(bad_files / "harmful.pt", weights_only=False)
    assert (bad_files / "written").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"checkpoint": None}, "add checkpoint=FILE"),
        ({"blank": None}, "add blank=INDEX"),
        ({"blank": 7}, "outputs 0 to 6"),
    ],
)
def test_what_is_not_said_is_asked_for(folder, changes, message):
    assert message in fails("import_checkpoint", *words(folder, **changes))


def test_a_blank_that_is_a_piece_is_refused(folder, tmp_path):
    (tmp_path / "seven.txt").write_text("".join(f"{piece}\n" for piece in [*PIECES, "▁off"]))
    assert "output 3 is the piece '▁on'" in fails("import_checkpoint", *words(folder, tokenizer=tmp_path / "seven.txt", blank=3))
