"""Evaluating and transcribing with what the quantize and lower stages make, on a tiny model."""

import csv
import json
import shutil
import sys

import numpy as np
import pytest
import soundfile
import torch
from tiny_recognizer import noise, write_corpus, write_model

from earshot import metrics, utterance_table
from earshot.lower import golden
from earshot.lower.tosa_executor.executor import Executor
from earshot.lower.tosa_with_cache import open_graph
from earshot.quantize import program
from earshot.stages import evaluate, lower, parity, quantize, tosa, transcribe
from earshot.windows import fit_window

WINDOW = ("window=4s", "window.seconds=2", "window.overlap_s=0.6")
SECONDS = [1.0, 2.0, 2.5, 5.3]
METRICS = ("sqnr_db", "cosine", "argmax_agreement")


def command(stage, *arguments: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [stage.__name__, *arguments])
        stage.main()


def build(folder, *schemes: tuple[str, str, str], **model):
    """A tiny model, its programs and variants for each scheme, family and target."""
    write_model(folder / "model", **model)
    for split in ("train", "dev", "test"):
        write_corpus(folder / "corpus", SECONDS, ["TURN ON THE LIGHT"] * len(SECONDS), split)
    given = (f"model_dir={folder / 'model'}", f"corpus_dir={folder / 'corpus'}", "calib.utterances=4", *WINDOW)
    for scheme, family, target in schemes:
        command(quantize, f"quant={scheme}", f"family={family}", f"out={folder / scheme}", *given)
        if family != "host":
            command(tosa, f"program_dir={folder / scheme}")
        command(lower, f"target={target}", f"program_dir={folder / scheme}", f"out={folder / target}")
    return folder


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Float on the host, int8 on an NPU."""
    return build(tmp_path_factory.mktemp("programs"), ("fp32", "host", "host"), ("int8_pc", "u85", "u85_256"))


@pytest.fixture(scope="module")
def built_by_8(tmp_path_factory):
    """Float on the host, of a model with an output every 80 ms."""
    return build(tmp_path_factory.mktemp("programs_by_8"), ("fp32", "host", "host"), subsampling_channels=[4, 4, 4])


def figures(folder, kind: str, subject: str, out, *more: str) -> dict:
    given = (f"kind={kind}", f"subject={folder / subject}", f"corpus_dir={folder / 'corpus'}", f"out={out}", *WINDOW)
    command(evaluate, *given, "evaluation.timing_utterances=3", *more)
    return json.loads(out.read_text())


def hypotheses(out, column: str = "hypothesis") -> dict[str, str]:
    return {row["id"]: row[column] for row in csv.DictReader(utterance_table.beside(out).open())}


def in_every_form(folder):
    """The evaluations of a float model, of its program and of its variant on the host."""
    for kind, subject in (("float", "model"), ("program", "fp32"), ("variant", "host")):
        figures(folder, kind, subject, folder / f"{kind}.json")
    return folder


@pytest.fixture(scope="module")
def evaluated(built):
    return in_every_form(built)


@pytest.fixture(scope="module")
def evaluated_by_8(built_by_8):
    return in_every_form(built_by_8)


@pytest.mark.parametrize("model", ["evaluated", "evaluated_by_8"])
def test_the_float_program_says_what_the_checkpoint_says_in_every_form(model, request):
    folder = request.getfixturevalue(model)
    words = hypotheses(folder / "float.json")
    assert any(words.values())
    assert hypotheses(folder / "program.json") == words
    assert hypotheses(folder / "variant.json") == words


def test_a_host_variant_has_accuracy_times_and_memory(evaluated):
    found = json.loads((evaluated / "variant.json").read_text())
    assert set(found["accuracy"]) == {"host_pte"}
    host = found["host"]
    assert host["timed_utterances"] == 3
    assert 0 < host["rtf_1_thread"] < host["rtf_1_thread_with_front_end"]
    assert host["rtf_all_threads"] > 0
    assert 0 < host["latency_ms_p50"] <= host["latency_ms_p95"] < host["utterance_ms_p95"]
    assert host["peak_rss_mib"] > 100


@pytest.fixture(scope="module")
def everywhere(built):
    """The evaluation of the int8 program and its integer graph on all utterances."""
    figures(built, "program", "int8_pc", built / "all.json")
    return built / "all.json"


def test_a_program_of_an_npu_is_evaluated_by_pytorch_and_as_its_integer_graph(everywhere):
    found = json.loads(everywhere.read_text())
    assert set(found["accuracy"]) == {"quantized", "integer_graph"}
    assert found["reference_windows"] == 2, "of the first two utterances"
    assert found["accuracy"]["integer_graph"]["utterances"] == found["accuracy"]["quantized"]["utterances"] == len(SECONDS)
    assert "host" not in found
    words, of_graph = hypotheses(everywhere), hypotheses(everywhere, "hypothesis_integer_graph")
    assert any(words.values()) and any(of_graph.values())


def test_several_processes_say_what_one_says(built, everywhere, tmp_path):
    found = figures(built, "program", "int8_pc", tmp_path / "s.json", "evaluation.jobs=2")
    assert found["accuracy"] == json.loads(everywhere.read_text())["accuracy"]
    for column in ("hypothesis", "hypothesis_integer_graph"):
        assert hypotheses(tmp_path / "s.json", column) == hypotheses(everywhere, column)


@pytest.mark.parametrize(("utterances", "windows"), [(0, 0), (100, 8)])
def test_the_first_utterances_are_compared_with_the_reference_model(built, tmp_path, utterances, windows):
    found = figures(built, "program", "int8_pc", tmp_path / "x.json", f"evaluation.reference_utterances={utterances}")
    assert found["reference_windows"] == windows


def test_a_graph_that_differs_from_the_reference_model_stops_the_evaluation(built, tmp_path, monkeypatch):
    """As an error in the executor would: its results are shifted by one on all windows but the first."""
    run, calls = Executor.run, []

    def wrong(self, *integers, keep=()):
        calls.append(None)
        return {name: found ^ (len(calls) > 1) for name, found in run(self, *integers, keep=keep).items()}

    monkeypatch.setattr(Executor, "run", wrong)
    with pytest.raises(SystemExit, match=r"utterance test-1, window 1: .*graph\.tosa: .* differ in \d+ of 490 values; run the tosa step"):
        figures(built, "program", "int8_pc", tmp_path / "x.json")
    assert not (tmp_path / "x.json").exists()


def test_a_variant_of_an_npu_is_sent_to_its_program(built, tmp_path):
    with pytest.raises(SystemExit, match=r"kind=program"):
        figures(built, "variant", "u85_256", tmp_path / "x.json")


def test_the_graph_of_an_earlier_program_is_refused(built, tmp_path):
    shutil.copytree(built / "int8_pc", tmp_path / "int8_pc")
    report = json.loads((tmp_path / "int8_pc" / "graph.json").read_text())
    (tmp_path / "int8_pc" / "graph.json").write_text(json.dumps({**report, "program_sha256": "0" * 64}))
    with pytest.raises(SystemExit, match=r"graph\.json: .* run the tosa step again"):
        figures(built, "program", tmp_path / "int8_pc", tmp_path / "x.json")


def test_another_window_than_the_programs_is_refused(built, tmp_path):
    with pytest.raises(SystemExit, match=r"takes windows of 2 s"):
        figures(built, "program", "int8_pc", tmp_path / "x.json", "window.seconds=4")
    assert not (tmp_path / "x.json").exists()


CACHED = ("window=2s", "window.overlap_s=0.5", "window.left_context_s=1")


@pytest.fixture(scope="module")
def cached(built):
    """Program and variant of an NPU with a cache of left context."""
    given = (f"model_dir={built / 'model'}", f"corpus_dir={built / 'corpus'}", "calib.utterances=4", "quant=int8_pc", "family=u85")
    command(quantize, *given, f"out={built / 'cached'}", *CACHED)
    command(tosa, f"program_dir={built / 'cached'}")
    command(lower, "target=u85_256", f"program_dir={built / 'cached'}", f"out={built / 'u85_cached'}")
    return built


def test_a_program_with_a_cache_and_its_integer_graph_say_about_what_the_float_model_with_a_cache_says(cached, tmp_path):
    given = f"corpus_dir={cached / 'corpus'}", *CACHED
    command(evaluate, "kind=float", f"subject={cached / 'model'}", f"out={tmp_path / 'float.json'}", *given)
    command(evaluate, "kind=program", f"subject={cached / 'cached'}", f"out={tmp_path / 'program.json'}", *given)
    assert json.loads((tmp_path / "program.json").read_text())["reference_windows"] >= 2
    wanted = hypotheses(tmp_path / "float.json")
    for column in ("hypothesis", "hypothesis_integer_graph"):
        found = hypotheses(tmp_path / "program.json", column)
        assert metrics.accuracy([metrics.compare(id, 1.0, wanted[id], found[id]) for id in wanted], 0, 0)["wer"] < 0.3


def test_the_cache_that_a_graph_gives_is_the_one_that_it_takes(cached):
    graph, quantized = open_graph(cached / "u85_cached"), program.load(cached / "cached")
    features, cache = fit_window(graph.front_end(noise(2.0, 3)), graph.front_end, 200)[0], graph.first_cache
    for windows in range(4):
        (logits, next_cache), (wanted, wanted_cache) = graph(features, cache), quantized(features, cache)
        for found, expected in ((logits, wanted), (next_cache, wanted_cache)):
            assert 10 * torch.log10(expected.square().mean() / (found - expected).square().mean()) > 20, windows  # dB
        cache = next_cache
    assert {key: graph.boundary["cache_input"][key] for key in ("shape", "dtype")} == {"shape": [1, 26, 16], "dtype": "int8"}


def test_the_bundle_of_a_program_with_a_cache_has_its_vectors_and_says_what_to_do(cached):
    folder = cached / "u85_cached"
    graph, vector = open_graph(folder), {end: np.load(folder / f"golden_{end}.npy") for end in golden.ENDS_WITH_CACHE}
    assert np.array_equal(vector["cache_input"], graph.quantize(torch.zeros(graph.window_frames, 80), graph.first_cache)[1])
    output, cache_output = graph.run(vector["input"], vector["cache_input"])
    assert np.array_equal(output, vector["output"]) and np.array_equal(cache_output, vector["cache_output"])
    text = (folder / "README.md").read_text()
    assert "what its layers know of the 1 s before the window" in text
    assert repr(graph.boundary["cache_input"]["scale"]) in text
    lowered = json.loads((folder / "lower.json").read_text())
    assert lowered["npu"]["operators_cpu"] == {"dequantize_per_tensor": 2, "quantize_per_tensor": 2}


@pytest.mark.parametrize(
    ("subject", "window"),
    [
        ("cached", "window.left_context_s=2"),
        ("cached", "window.left_context_s=0"),
        ("cached", "window.overlap_s=1"),
        ("int8_pc", "window=2s"),
    ],
)
def test_another_cache_than_the_programs_is_refused(cached, tmp_path, subject, window):
    with pytest.raises(SystemExit, match=r"left_context_s=\S+ .*(has a cache of 1 s and looks 0.52 s ahead|has no cache)"):
        figures(cached, "program", subject, tmp_path / "x.json", *CACHED, window)


@pytest.mark.parametrize("harm", ["absent", "damaged", "another"])
def test_a_first_cache_that_is_not_the_programs_is_refused(cached, tmp_path, harm):
    shutil.copytree(cached / "cached", tmp_path / "cached")
    path = tmp_path / "cached" / "first_cache.npy"
    path.unlink()
    if harm == "damaged":
        path.write_bytes(b"\x93NUMPY")
    if harm == "another":
        np.save(path, np.zeros((3, 16), np.float32))
    with pytest.raises(SystemExit, match=r"first_cache\.npy: .* run the quantize step again"):
        figures(cached, "program", tmp_path / "cached", tmp_path / "x.json", *CACHED)


@pytest.mark.parametrize("other", ["family=host", "quant=a16w8", "form.npu_form=false"])
def test_a_cache_without_the_npu_form_is_refused(built, tmp_path, other):
    with pytest.raises(SystemExit, match=r"window\.left_context_s=1: .* of the NPU form"):
        given = (f"model_dir={built / 'model'}", f"corpus_dir={built / 'corpus'}", "quant=int8_pc", "family=u85")
        command(quantize, *given, f"out={tmp_path / 'x'}", *CACHED, other)


@pytest.mark.parametrize("program", ["cached/quantized.pt2", "u85_cached"])
def test_transcribe_takes_a_program_with_a_cache(cached, tmp_path, capsys, program):
    soundfile.write(tmp_path / "a.wav", noise(4.2, 7), 16_000)
    command(transcribe, f"program={cached / program}", f"audio={tmp_path / 'a.wav'}")
    assert capsys.readouterr().out.strip()


@pytest.mark.parametrize("program", ["model/model.safetensors", "fp32/quantized.pt2", "host/model.pte", "host", "u85_256/model.pte"])
def test_transcribe_takes_every_kind_of_program(built, tmp_path, capsys, program):
    soundfile.write(tmp_path / "a.wav", noise(1.9, 7), 16_000)
    command(transcribe, f"program={built / program}", f"audio={tmp_path / 'a.wav'}")
    told = capsys.readouterr()
    assert len(told.out.splitlines()) == 1
    assert told.out.strip()
    assert ("integer graph" in told.err) == ("u85" in program)


def ladder(folder, program: str, out, *more: str) -> dict:
    given = (f"model_dir={folder / 'model'}", f"program_dir={folder / program}", f"corpus_dir={folder / 'corpus'}", f"out={out}")
    command(parity, *given, "parity.traced=2", *more)
    return json.loads(out.read_text())


def test_the_parity_ladder_of_an_npu_s_program(built, everywhere, tmp_path):
    whole_split = ("split=test", "parity.utterances=99")
    found = ladder(built, "int8_pc", tmp_path / "parity.json", *WINDOW, *whole_split, f"program_json={everywhere}")
    rungs, depth = found["rungs"], found["depth"]
    assert list(rungs) == ["float", "exported", "quantized", "integer_graph"]
    assert rungs["exported"]["sqnr_db"] > 80 and found["weights"]["replaced"] == found["weights"]["stored"] > 0
    assert all(rungs[name]["wer"] == json.loads(everywhere.read_text())["accuracy"][name]["wer"] for name in ("quantized", "integer_graph"))
    assert all(rungs[name]["wer_here"] == rungs[name]["wer"] for name in ("quantized", "integer_graph"))
    assert rungs["exported"]["wer_here"] == rungs["float"]["wer_here"]
    assert rungs["quantized"]["step"] == {"from": "exported"} | {key: rungs["quantized"]["step"][key] for key in METRICS}
    assert 15 < rungs["integer_graph"]["sqnr_db"] < rungs["exported"]["sqnr_db"]
    tensors = list(csv.DictReader((tmp_path / "parity.csv").open()))
    assert len(tensors) == depth["tensors"] and depth["counterparts"] > 0.9 * depth["tensors"]
    assert depth["modules"][-1]["index"] == len(tensors) - 1 and float(tensors[-1]["integer_graph_sqnr_db"]) > 15
    assert "blocks.0.self_attention" in (tmp_path / "parity.svg").read_text()


def test_the_parity_ladder_of_the_host_ends_with_its_program(built, tmp_path):
    found = ladder(built, "fp32", tmp_path / "parity.json", *WINDOW, f"variant_dir={built / 'host'}")
    assert list(found["rungs"]) == ["float", "exported", "host_pte"] and "depth" not in found
    assert all(found["rungs"][name]["argmax_agreement"] == 1.0 for name in ("exported", "host_pte"))


def test_the_parity_ladder_of_a_program_with_a_cache(cached, tmp_path):
    found = ladder(cached, "cached", tmp_path / "parity.json", *CACHED)
    assert list(found["rungs"]) == ["float", "exported", "quantized", "integer_graph"]
    assert found["rungs"]["exported"]["sqnr_db"] > 80 and found["rungs"]["integer_graph"]["sqnr_db"] > 10


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("window.seconds=4", r"takes windows of 2 s"),
        ("variant_dir={built}/u85_256", r"of an NPU, .* leave variant_dir out"),
        ("program_dir={built}/nothing", r"quantize\.json: no such file"),
        ("parity.utterances=0", r"at least 1"),
        ("split=test corpus_dir={built}", r"no such manifest"),
    ],
)
def test_a_parity_ladder_of_what_does_not_fit_is_refused(built, tmp_path, change, message):
    with pytest.raises(SystemExit, match=message):
        ladder(built, "int8_pc", tmp_path / "parity.json", *WINDOW, *change.format(built=built).split())
    assert not (tmp_path / "parity.json").exists()


def test_a_parity_ladder_of_another_model_is_refused(built, tmp_path):
    write_model(tmp_path / "other" / "model", seed=2)
    with pytest.raises(SystemExit, match=r"made of another model than .* run the quantize step again"):
        ladder(built, "int8_pc", tmp_path / "parity.json", *WINDOW, f"model_dir={tmp_path / 'other' / 'model'}")
