"""What a training hears, and what it says of data that it cannot learn from."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import stage_command
import torch
from small_training import UTTERANCES
from tiny_recognizer import noise, write_corpus

from earshot import curves, feature_store
from earshot.config import SAMPLE_RATE_HZ, Train
from earshot.corpus.manifest import load_cuts
from earshot.data import Utterances
from earshot.errors import ConfigError, DataError
from earshot.features import FrontEnd
from earshot.files import read_json
from earshot.model import checkpoint
from earshot.tokenizer import Tokenizer
from earshot.train import perturb

pytestmark = pytest.mark.xdist_group("fitting")


def test_a_loss_that_is_no_number_names_its_utterances(train, tmp_path, monkeypatch):
    load = feature_store.load
    monkeypatch.setattr(feature_store, "load", lambda cut: load(cut) * (math.nan if cut.id == "train-7" else 1.0))
    message = train.fails(tmp_path / "model")
    assert "no finite number" in message and "train-7" in message
    assert len([word for word in message.split() if word.startswith("train-")]) < UTTERANCES


def test_a_transcript_too_long_for_its_frames_is_named_and_left_out(train, tmp_path, speech, capsys):
    corpus = tmp_path / "corpus"
    texts = ["GO", "TURN ON THE LIGHT " * 20, "STOP", "GO LEFT"]
    write_corpus(corpus, [1.0, 1.0, 1.5, 2.0], [text.strip() for text in texts], "train")
    write_corpus(corpus, [1.0, 1.1, 1.0], ["GO", "STOP", texts[1].strip()], "dev")
    stage_command.run("features", f"corpus_dir={corpus}", f"out={tmp_path / 'features'}", "features.jobs=1")
    seen = train(tmp_path / "model", "train.epochs=1", features=tmp_path / "features")
    assert {utterance for batch in seen for utterance in batch} == {"train-0", "train-2", "train-3"}
    output = capsys.readouterr().out
    assert "train: 1 of 4 utterances have more pieces than output frames and are left out: train-1" in output
    assert "dev: 1 of 3 utterances have more pieces than output frames and are counted as words, not in the loss: dev-2" in output
    told = read_json(tmp_path / "model" / "state" / "left_out.json")
    assert told["utterances"].keys() == {"train-1"} and told["dev_without_loss"].keys() == {"dev-2"}
    assert told["utterances"]["train-1"]["pieces"] > told["utterances"]["train-1"]["output_frames"]
    assert read_json(tmp_path / "model" / "metrics.json")["left_out"] == 1


def test_features_of_another_front_end_are_refused(train, tmp_path, speech):
    other = tmp_path / "features"
    shutil.copytree(speech / "stored", other)
    front_end = FrontEnd.load(other / "front_end.json")
    FrontEnd(replace(front_end.config, f_max_hz=4000.0), front_end.mean.tolist(), front_end.std.tolist()).save(other / "front_end.json")
    assert "features of another front end" in train.fails(tmp_path / "model", features=other)


def test_another_tokenizer_or_front_end_than_that_of_the_start_weights_is_refused(train, plain, tmp_path, speech):
    start = ["train=from_checkpoint", f"train.checkpoint={plain[1]}"]
    corpus = f"corpus_dir={speech / 'corpus'}"
    stage_command.run("tokenizer", corpus, f"out={tmp_path / 'tokenizer'}", "tokenizer.vocab_size=18")
    assert "its tokenizer is another one" in train.fails(tmp_path / "model", *start, f"tokenizer_dir={tmp_path / 'tokenizer'}")
    stage_command.run(
        "features", corpus, f"out={tmp_path / 'features'}", "features.jobs=1", "features.stored=false", "features.f_max_hz=4000"
    )
    assert "its front end is another one" in train.fails(tmp_path / "model", *start, features=tmp_path / "features")


def test_what_was_learnt_with_another_tokenizer_is_gone_on_from(train, plain, tmp_path, speech):
    stage_command.run("tokenizer", f"corpus_dir={speech / 'corpus'}", f"out={tmp_path / 'tokenizer'}", "tokenizer.vocab_size=18")
    start = ["train=from_checkpoint", f"train.checkpoint={plain[1]}", "train.fresh_output=true", f"tokenizer_dir={tmp_path / 'tokenizer'}"]
    train(tmp_path / "model", *start, "train.epochs=1", "train.lr=1e-12", "train.weight_decay=0")
    before, after = (checkpoint.load(folder).model.state_dict() for folder in (plain[1], tmp_path / "model"))
    assert before["output.weight"].shape != after["output.weight"].shape
    learnt = [name for name, _ in checkpoint.load(plain[1]).model.named_parameters() if not name.startswith("output.")]
    assert len(learnt) > 20
    assert all(torch.allclose(before[name], after[name], atol=1e-6) for name in learnt)


def test_perturbed_audio_needs_audio(train, tmp_path, speech):
    assert "features=logmel80_live" in train.fails(tmp_path / "model", "train.speeds=[0.9,1.1]")
    assert "no .wav files" in train.fails(tmp_path / "model", f"train.noise={tmp_path}", features="live")
    with pytest.raises(DataError, match="cannot be read"):
        (cut, *_) = load_cuts(speech / "live" / "train.cuts.jsonl.gz")
        cut.recording.sources[0].source = str(tmp_path / "gone.flac")
        Utterances(FrontEnd.load(speech / "live" / "front_end.json"), Tokenizer(speech / "tokenizer" / "tokenizer.model"))[[cut]]


def test_features_are_the_same_stored_and_computed_on_the_fly(speech):
    front_end, tokenizer = FrontEnd.load(speech / "live" / "front_end.json"), Tokenizer(speech / "tokenizer" / "tokenizer.model")
    stored, live = (list(load_cuts(speech / name / "train.cuts.jsonl.gz"))[:5] for name in ("stored", "live"))
    dataset = Utterances(front_end, tokenizer)
    one, other = dataset[stored], dataset[live]
    assert torch.equal(one.lengths_b, other.lengths_b) and torch.equal(one.targets, other.targets)
    assert (one.features_btf - other.features_btf).abs().max() < 0.05
    on_device = replace(dataset, on_device=True)[live].batch(front_end.to(torch.device("cpu")))
    assert torch.equal(on_device.features_btf, other.features_btf)


def test_a_manifest_longer_than_the_samplers_buffer_has_its_shards_in_random_order(speech, tmp_path):
    settings = ["features.jobs=1", "features.shard_utterances=1", "features.stored=false"]
    stage_command.run("features", f"corpus_dir={speech / 'corpus'}", f"out={tmp_path}", *settings)
    ids = [cut.id for cut in load_cuts(tmp_path / "train.cuts.jsonl.gz")]
    known = [cut.id for cut in load_cuts(speech / "corpus" / "train.cuts.jsonl.gz")]
    assert ids != known and sorted(ids) == sorted(known)
    assert [cut.id for cut in load_cuts(tmp_path / "dev.cuts.jsonl.gz")] == [f"dev-{i}" for i in range(4)]


def test_the_first_epoch_may_go_from_short_to_long_and_goes_on_where_it_stopped(train, tmp_path, speech):
    seconds = {cut.id: cut.duration for cut in load_cuts(speech / "stored" / "train.cuts.jsonl.gz")}
    seen = train(tmp_path / "model", "train.short_first_epochs=1", stop=lambda epoch, number: number == 2)
    seen += train(tmp_path / "model", "train.short_first_epochs=1")
    heard = [seconds[utterance] for batch in seen for utterance in batch]
    first, second = heard[:UTTERANCES], heard[UTTERANCES:]
    assert first == sorted(seconds.values())
    assert sorted(second) == first != second


def test_speed_noise_and_rooms(speech, noises):
    cuts = load_cuts(speech / "live" / "train.cuts.jsonl.gz")
    first, again, next_epoch = ([cut.duration for cut in perturb.at_speeds(cuts, [0.9, 1.0, 1.1], 0, epoch)] for epoch in (0, 0, 1))
    plain = [cut.duration for cut in cuts]
    ratios = {round(a / b, 2) for a, b in zip(plain, first, strict=True)}
    assert first == again != next_epoch and ratios == {0.9, 1.0, 1.1}

    said, other = noise(2.0, 1), noise(2.0, 2)
    mixed = perturb.with_noise(said, other, 10.0)
    assert 10 * np.log10(np.square(said).mean() / np.square(mixed - said).mean()) == pytest.approx(10.0, abs=0.01)
    response = np.zeros(800, np.float32)
    response[[100, 500]] = 1.0, 0.3
    heard = perturb.in_room(said, response)
    assert heard.shape == said.shape and np.argmax(np.correlate(heard, said[:-2000], "valid")) == 0
    assert np.square(heard).mean() == pytest.approx(np.square(said).mean(), rel=1e-3)

    changed = perturb.Perturbation(Train(noise_p=1.0), perturb.recordings(str(noises), "noise"), [])
    assert np.array_equal(changed(said, "a"), changed(said, "a")) and not np.array_equal(changed(said, "a"), changed(said, "b"))
    assert not np.array_equal(changed(said, "a"), replace(changed, epoch=1)(said, "a"))
    with pytest.raises(ConfigError, match="speeds"):
        Train(speeds=[0.1])

    path = noises / "response.flac"
    soundfile.write(path, response, SAMPLE_RATE_HZ)
    in_one = perturb.Perturbation(Train(rooms_p=1.0), [], [path])
    assert np.allclose(in_one(said, "a"), heard, atol=1e-3)
    some = [perturb.Perturbation(Train(rooms_p=0.5), [], [path])(said, f"{i}") for i in range(40)]
    assert 5 < sum(not np.array_equal(one, said) for one in some) < 35


def test_a_training_hears_rooms(train, tmp_path):
    response = np.zeros(4000, np.float32)
    response[[100, 2500, 3900]] = 1.0, 0.8, 0.6
    (tmp_path / "rooms" / "smallroom").mkdir(parents=True)
    soundfile.write(tmp_path / "rooms" / "smallroom" / "Room001.wav", response, SAMPLE_RATE_HZ)
    rooms = ["train.epochs=1", f"train.rooms={tmp_path / 'rooms'}"]
    for part in (0.0, 1.0):
        train(tmp_path / f"{part}", *rooms, f"train.rooms_p={part}", features="live")
    (dry,), (heard,) = (curves.read(tmp_path / f"{part}" / "curves.csv") for part in (0.0, 1.0))
    assert dry["train_loss"] != heard["train_loss"]
