"""The rungs of the ladder: every form of a model on the same speech, each against the float model and against the rung before."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from earshot import evaluate, metrics, recognizers, windows
from earshot.config import Decode, ParityStage
from earshot.corpus.manifest import read_audio
from earshot.decode import decode
from earshot.errors import ArtifactError, ConfigError
from earshot.files import atomic, read_json, write_json
from earshot.lower.tosa import IntegerGraph
from earshot.model import checkpoint
from earshot.parity import depth, plot, trained
from earshot.parity.figures import Comparison
from earshot.parity.graph import Graph
from earshot.quantize import program


def write(cfg: ParityStage) -> dict[str, Any]:
    """Write parity.json, which is given back, and parity.csv and parity.svg beside it.

    Raises:
        ArtifactError, ConfigError, DataError: as `climb`.
    """
    content, tensors = climb(cfg)
    out = Path(cfg.out)
    with atomic(out.with_suffix(".csv")) as temporary, temporary.open("w", newline="") as stream:
        table = csv.DictWriter(stream, [field.name for field in dataclasses.fields(depth.Tensor)])
        table.writeheader()
        table.writerows(map(dataclasses.asdict, tensors))
    with atomic(out.with_suffix(".svg")) as temporary:
        temporary.write_text(plot.svg(content))
    write_json(out, content)
    return content


class AsProgram:
    """A run of a graph as a program of windows: features (and cache) to logits (and cache); all else is what `report` says of it."""

    def __init__(self, report: dict[str, Any], like: Any, graph: Graph, in_floats: bool) -> None:
        self._like, self._graph, self._in_floats = like, graph, in_floats
        self.window_frames = int(report["window_frames"])

    def __getattr__(self, name: str) -> Any:
        return getattr(self._like, name)

    def __call__(self, *inputs: torch.Tensor) -> Any:
        outputs, _ = self._graph.run(*(one[None] for one in inputs), in_floats=self._in_floats)
        return outputs[0][0] if len(outputs) == 1 else tuple(one[0] for one in outputs)


@dataclass
class Ladder:
    """What the rungs are made of."""

    forms: list[recognizers.Form]  # the float model first
    exported: recognizers.Program | recognizers.ProgramWithCache  # the program in floats
    graph: Graph
    integer_graph: IntegerGraph | None
    quantized: bool


def open_ladder(cfg: ParityStage) -> Ladder:
    """Read all forms of a program's model.

    Raises:
        ArtifactError: a file is absent or damaged, or the program is of another model.
        ConfigError: the program was made for another window, or a variant of an NPU is given.
    """
    folder = Path(cfg.program_dir)
    report = read_json(folder / program.REPORT)
    if report["model_sha256"] != checkpoint.model_digest(cfg.model_dir):
        raise ArtifactError(f"{folder}: made of another model than {cfg.model_dir}; give its own, or run the quantize step again")
    if cfg.variant_dir and not recognizers.is_host(cfg.variant_dir):
        raise ConfigError(f"variant_dir={cfg.variant_dir}: of an NPU, whose integer graph lies beside its program; leave variant_dir out")
    recognizer = checkpoint.load(cfg.model_dir)
    reference = recognizers.float_program(recognizer, cfg.window)
    exported = program.read_made(folder, report, recognizer.front_end.n_mels, len(recognizer.pieces))
    frames, n_mels = report["window_frames"], recognizer.front_end.n_mels
    known = trained.numbers(recognizer.model, reference.grid.output_frames(frames))
    if report["npu_form"]:
        known += trained.of_npu_form(recognizer.model, frames, n_mels, reference.layout if recognizers.has_cache(reference) else None)
    graph = Graph(exported, known)
    in_floats: Any = AsProgram(report, reference, graph, in_floats=True)
    evaluate.check_window(cfg.window, in_floats, folder)
    rungs: dict[str, Any] = {"float": reference, "exported": in_floats}
    if report["quantize"]:
        rungs["quantized"] = AsProgram(report, reference, graph, in_floats=False)
    integer_graph = recognizers.load_graph(folder)
    if integer_graph is not None:
        rungs["integer_graph"] = integer_graph
    if cfg.variant_dir and read_json(Path(cfg.variant_dir) / "lower.json")["status"] == "ok":
        rungs["host_pte"] = recognizers.load_variant(cfg.variant_dir)
    forms = [recognizers.form_of(name, one, cfg.window.overlap_s, folder) for name, one in rungs.items()]
    return Ladder(forms, in_floats, graph, integer_graph, report["quantize"])


def climb(cfg: ParityStage) -> tuple[dict[str, Any], list[depth.Tensor]]:
    """The content of parity.json, and the tensors along the depth; these are none of a program of floats.

    Raises:
        ArtifactError, ConfigError: as open_ladder, or an evaluation is absent or damaged.
        DataError: the split has no utterance.
    """
    ladder = open_ladder(cfg)
    split = evaluate.choose(Path(cfg.corpus_dir) / f"{cfg.split}.cuts.jsonl.gz")
    chosen = evaluate.sample(split, cfg.parity.utterances, cfg.parity.seed)
    features = [ladder.forms[0].front_end(read_audio(one.audio)) for one in tqdm(chosen, desc="features", unit="utt", disable=None)]
    rungs = compare(ladder.forms, features, [one.reference for one in chosen])
    for name, rate in word_error_rates(cfg).items():
        if name in rungs:
            rungs[name]["wer"] = rate
    tensors = (
        depth.measure(ladder.graph, ladder.integer_graph, inputs_of(ladder, features[: cfg.parity.traced])) if ladder.quantized else []
    )
    content = {
        "status": "ok",
        "split": cfg.split,
        "utterances": [one.id for one in chosen],
        "seed": cfg.parity.seed,
        "rungs": rungs,
        "weights": {"stored": ladder.graph.stored, "replaced": ladder.graph.replaced},
    }
    if tensors:
        content["depth"] = depth.report(tensors, cfg.parity.departs_db)
    return content, tensors


def compare(forms: Sequence[recognizers.Form], features: Sequence[torch.Tensor], references: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The figures of each rung: `sqnr_db`, `cosine`, `argmax_agreement` against the first, and as `step` against the one before; and
    `wer_here`, the word error rate of its best path over these very utterances."""
    against_first, against_before = ({form.name: Comparison() for form in forms[1:]} for _ in range(2))
    rows: dict[str, list[metrics.Row]] = {form.name: [] for form in forms}
    bar = tqdm(features, desc=f"compare {', '.join(form.name for form in forms)}", unit="utt", disable=None)
    for one, reference in zip(bar, references, strict=True):
        logits = [form.logits(one) for form in forms]
        for form, found in zip(forms, logits, strict=True):
            rows[form.name].append(metrics.compare("", 0.0, reference, decode(found, form.pieces, Decode())))
        if not len(logits[0]):  # too short for a single output
            continue
        for form, before, found in zip(forms[1:], logits, logits[1:], strict=False):
            against_first[form.name].add(logits[0], found)
            against_before[form.name].add(before, found)
    figures: dict[str, dict[str, Any]] = {forms[0].name: {}}
    for form, earlier in zip(forms[1:], forms, strict=False):
        step = {"from": earlier.name, **against_before[form.name].report()}
        figures[form.name] = {**against_first[form.name].report(), "step": step}
    for name, of_form in rows.items():
        if any(row.words for row in of_form):
            figures[name]["wer_here"] = metrics.accuracy(of_form, 0, 0)["wer"]
    return figures


def inputs_of(ladder: Ladder, features: Sequence[torch.Tensor]) -> Iterator[tuple[torch.Tensor, ...]]:
    """The inputs of all windows of some utterances, with the batch of one; a cache is what the program in floats gave before."""
    of = ladder.exported
    cached = of if recognizers.has_cache(of) else None
    layout = cached.layout if cached else windows.layout(of.window_frames, 0.0, of.front_end, of.grid)
    for one in features:
        cache = cached.first_cache if cached else torch.empty(0)
        for piece in layout.pieces(len(one)):
            x = windows.cut(one, piece, layout, of.front_end.silence())
            yield (x[None], cache[None]) if cached else (x[None],)
            if cached:
                _, cache = cached(x, cache)


def word_error_rates(cfg: ParityStage) -> dict[str, float]:
    """The WER of each form that was evaluated, by the evaluations that are given."""
    given = [path for path in (cfg.float_json, cfg.program_json, cfg.variant_json) if path]
    return {name: one["wer"] for path in given for name, one in read_json(path).get("accuracy", {}).items()}
