"""Accuracy of a model, program or host variant on a split of a corpus: utterances stream through, only their texts are kept."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import heapq
import itertools
import multiprocessing
import os
import signal
import threading
import time
import zlib
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from earshot import metrics, recognizers, utterance_lines, utterance_table, windows
from earshot.config import SAMPLE_RATE_HZ, EvaluateStage, Window
from earshot.corpus.manifest import load_cuts, read_audio
from earshot.decoders import Decoder, Hypothesis
from earshot.errors import ArtifactError, ConfigError, DataError
from earshot.files import read_json, write_json
from earshot.memory import peak_rss_mib
from earshot.provenance import provenance
from earshot.recognizers import Form

GRAPH_FORM = "integer_graph"
COMPARED = (("float", "float_full", "full"), (GRAPH_FORM, "quantized", "quantized"))  # two forms, and the ending of their difference
Hypotheses = dict[str, list[Hypothesis]]  # by form, the best first
AHEAD = 4  # utterances handed out per process before the first is waited for


@dataclass(frozen=True)
class Utterance:
    id: str
    duration_s: float
    audio: str
    reference: str


def evaluate(cfg: EvaluateStage) -> None:
    """Write the JSON `cfg.out`, and beside it a table of its utterances and all that was found of them, as JSON Lines.

    A variant that could not be lowered is a result too: its JSON has status failed and the reason.

    Raises:
        ConfigError: the window is not the one that the program was made for.
        ArtifactError: the subject, or what it is decoded with, is absent or damaged.
        DataError: the split has no utterance or no word.
    """
    started = time.monotonic()
    head = {"kind": cfg.kind, "subject": cfg.subject, "split": cfg.split}
    if cfg.kind == "variant":
        lowered = read_json(Path(cfg.subject) / "lower.json")
        if lowered["status"] != "ok":
            utterance_table.write(utterance_table.beside(cfg.out), [], {})
            utterance_lines.write_none(utterance_lines.beside(cfg.out))
            write_json(cfg.out, {"status": lowered["status"], "reason": lowered.get("reason", ""), **head})
            return
        if not recognizers.is_host(cfg.subject):
            raise ConfigError(f"subject={cfg.subject}: of an NPU, evaluated as its program's integer graph; give kind=program")
    chosen = choose(manifest(cfg))
    host = {}
    if cfg.kind == "variant":  # before the program is opened for recognition: it must not outlive a change of the runtime's threads
        from earshot import timing  # imports the runtime, which the other kinds do without

        timed = sample(chosen, cfg.evaluation.timing_utterances, cfg.evaluation.seed)
        host = {"host": timing.host_times(cfg.subject, cfg.window, [one.audio for one in timed])}
    forms = open_forms(cfg)
    judged = {"reference_windows": judge_graph(cfg, chosen)} if GRAPH_FORM in (form.name for form in forms) else {}
    rows = recognize(cfg, forms, chosen)
    reference = rows[forms[0].name]
    if not sum(row.words for row in reference):
        raise DataError(f"{manifest(cfg)}: {len(reference)} utterances without a single word; check the transcripts of the corpus")
    samples, seed = cfg.evaluation.bootstrap, cfg.evaluation.seed
    accuracy = {name: metrics.accuracy(of_form, samples, seed) for name, of_form in rows.items()}
    for form, other, ending in COMPARED:
        if {form, other} <= rows.keys():
            difference = metrics.wer_difference(rows[form], rows[other], samples, seed)
            accuracy[form] |= {f"{key}_to_{ending}": value for key, value in difference.items()}
    others = {name: of_form for name, of_form in rows.items() if name != forms[0].name}
    utterance_table.write(utterance_table.beside(cfg.out), reference, others)
    write_json(
        cfg.out,
        {
            "status": "ok",
            **head,
            "accuracy": accuracy,
            **host,
            "environment": provenance(),
            **judged,
            "window_s": cfg.window.seconds,
            "seconds": round(time.monotonic() - started, 3),
            "peak_rss_mib": peak_rss_mib(),
        },
    )


def open_forms(cfg: EvaluateStage) -> list[Form]:
    """The forms of the subject that are evaluated, the first being what the table shows."""
    if cfg.kind == "float":
        return recognizers.open_model(cfg.subject, cfg.window)
    if cfg.kind == "program":
        programs = {"quantized": recognizers.load_program(cfg.subject), GRAPH_FORM: recognizers.load_graph(cfg.subject)}
    else:
        programs = {"host_pte": recognizers.load_variant(cfg.subject)}
    forms = []
    for name, program in programs.items():
        if program is None:
            continue
        check_window(cfg.window, program, cfg.subject)
        forms.append(recognizers.form_of(name, program, cfg.window.overlap_s, cfg.subject))
    return forms


def check_window(window: Window, program: recognizers.Program | recognizers.ProgramWithCache, source: str | Path) -> None:
    """Refuse a window whose length, left context, or look-ahead before it, is not the program's; `source` is where that was read.

    Raises:
        ConfigError: it names what the program was made for.
    """
    frames = windows.frames_of(window, program.front_end)
    if frames != program.window_frames:
        seconds = program.window_frames * window.seconds / frames
        raise ConfigError(f"window.seconds={window.seconds}: {source} takes windows of {seconds:g} s; choose that window")
    asked = windows.layout(program.window_frames, window.overlap_s, program.front_end, program.grid, window.left_context_s)
    if recognizers.has_cache(program):
        made = program.layout
        if asked != made:
            output_s = made.grid.factor * program.front_end.hop_length / SAMPLE_RATE_HZ
            raise ConfigError(
                f"window.left_context_s={window.left_context_s:g}, window.overlap_s={window.overlap_s:g}: {source} has a cache of "
                f"{made.left * output_s:g} s and looks {made.overlap * output_s:g} s ahead; choose that window"
            )
    elif window.left_context_s:
        raise ConfigError(f"window.left_context_s={window.left_context_s:g}: {source} has no cache; set it to 0")


# ---------------------------------------------------------------- utterances


def manifest(cfg: EvaluateStage) -> Path:
    return Path(cfg.corpus_dir) / f"{cfg.split}.cuts.jsonl.gz"


def utterances(path: Path) -> Iterator[Utterance]:
    """The utterances of a manifest, one after the other."""
    for cut in load_cuts(path):
        yield Utterance(cut.id, cut.duration, cut.recording.sources[0].source, cut.supervisions[0].text)


def choose(path: Path) -> Stream:
    """The utterances of a split, by its manifest.

    Raises:
        ArtifactError: the manifest is absent or damaged.
        DataError: the split is empty.
    """
    with contextlib.suppress(OSError, EOFError, zlib.error), gzip.open(path) as lines:
        total = sum(1 for line in lines if line.strip())
        if not total:
            raise DataError(f"{path}: no utterances; choose another split or give the corpus some for it")
    load_cuts(path)  # tells what is wrong with a file that could not be read
    return Stream(path, total)


class Stream:
    """The utterances of a manifest, read anew in each pass; its length is known."""

    def __init__(self, path: Path, length: int) -> None:
        self.path, self.length = path, length

    def __iter__(self) -> Iterator[Utterance]:
        return utterances(self.path)

    def __len__(self) -> int:
        return self.length


def sample(chosen: Iterable[Utterance], count: int, seed: int) -> list[Utterance]:
    """`count` utterances that depend on their ids and the seed alone: the same for every variant, whatever the order of the manifest."""
    return heapq.nsmallest(count, chosen, key=lambda utterance: hashlib.sha256(f"{seed} {utterance.id}".encode()).digest())


# ---------------------------------------------------------------- recognition


def judge_graph(cfg: EvaluateStage, chosen: Stream) -> int:
    """Compare the integer graph with TOSA's reference model on the first utterances, and say on how many windows that was.

    Raises:
        ArtifactError: they differ on a window of an utterance, which the message names.
    """
    graph: Any = recognizers.judged_graph(cfg.subject)  # of either kind of program
    form = recognizers.form_of(GRAPH_FORM, graph, cfg.window.overlap_s, cfg.subject)
    count = min(cfg.evaluation.reference_utterances, len(chosen))
    for item in tqdm(itertools.islice(chosen, count), total=count, desc="compare with TOSA's reference model", unit="utt", disable=None):
        before = graph.windows
        try:
            form.logits(form.front_end(read_audio(item.audio)))
        except ArtifactError as error:
            raise ArtifactError(f"utterance {item.id}, window {graph.windows - before}: {error}") from error
    return graph.windows


def recognize(cfg: EvaluateStage, forms: list[Form], chosen: Stream) -> dict[str, list[metrics.Row]]:
    """What each form makes of each utterance."""
    rows: dict[str, list[metrics.Row]] = {form.name: [] for form in forms}
    results = in_processes(cfg, chosen) if cfg.evaluation.jobs > 1 else in_this_process(cfg, forms, chosen)
    with utterance_lines.writing(utterance_lines.beside(cfg.out)) as write:
        for item, of_forms in tqdm(results, total=len(chosen), desc=f"evaluate {', '.join(rows)}", unit="utt", disable=None):
            for name, found in of_forms.items():
                row = metrics.compare(item.id, item.duration_s, item.reference, found[0].text)
                rows[name].append(row)
                write(name, row, found)
    return rows


def hypotheses(forms: list[Form], decoder: Decoder, item: Utterance) -> Hypotheses:
    """What each form recognizes in an utterance."""
    features = forms[0].front_end(read_audio(item.audio))
    return {form.name: form.recognize(features, decoder) for form in forms}


def in_this_process(cfg: EvaluateStage, forms: list[Form], chosen: Iterable[Utterance]) -> Iterator[tuple[Utterance, Hypotheses]]:
    """Utterances and their hypotheses by form."""
    decoder = Decoder(forms[0].pieces, cfg.decode)
    return ((item, hypotheses(forms, decoder, item)) for item in chosen)


def in_processes(cfg: EvaluateStage, chosen: Iterable[Utterance]) -> Iterator[tuple[Utterance, Hypotheses]]:
    """Utterances and their hypotheses by form, in order, recognized by `evaluation.jobs` processes that each open the subject.

    Raises:
        ArtifactError: a process was killed, by a lack of memory for example.
    """
    pool = ProcessPoolExecutor(cfg.evaluation.jobs, multiprocessing.get_context("spawn"), initializer=_begin, initargs=(cfg,))
    waiting: deque = deque()
    try:
        _start(pool)
        for item in chosen:
            waiting.append((item, pool.submit(_work, item)))
            if len(waiting) > AHEAD * cfg.evaluation.jobs:
                done, future = waiting.popleft()
                yield done, future.result()
        for done, future in waiting:
            yield done, future.result()
    except BrokenProcessPool as error:
        count = cfg.evaluation.jobs
        raise ArtifactError(f"{cfg.subject}: one of {count} processes that ran it ended abruptly; run with evaluation.jobs=1") from error
    finally:
        pool.shutdown(cancel_futures=True)


def _start(pool: ProcessPoolExecutor) -> None:
    """Start the processes, which the first submission does; they inherit that Ctrl-C is ignored: it is for the parent alone."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        pool.submit(int)
    finally:
        signal.signal(signal.SIGINT, before)


_process: dict[str, Any] = {}


def _begin(cfg: EvaluateStage) -> None:
    """Set up a worker process: it ends with its parent, even if that is killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None  # this is a worker
    threading.Thread(target=_end_after, args=(parent,), daemon=True).start()
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // cfg.evaluation.jobs))
    forms = open_forms(cfg)
    _process.update(forms=forms, decoder=Decoder(forms[0].pieces, cfg.decode))


def _end_after(parent: multiprocessing.process.BaseProcess) -> None:
    parent.join()
    os._exit(1)


def _work(item: Utterance) -> Hypotheses:
    return hypotheses(_process["forms"], _process["decoder"], item)
