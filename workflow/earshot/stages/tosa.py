"""Lower a quantized program to its TOSA graph, which the lower step then compiles for each target of its family.

A program that cannot be lowered is a result, not an error: graph.json then has status failed and a reason, and the exit status is 0.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from pathlib import Path

from earshot.config import TosaStage
from earshot.errors import ArtifactError, ConfigError, LoweringError
from earshot.files import read_json, sha256, write_json
from earshot.left_context import FIRST_CACHE
from earshot.lower import golden, judge, module_names, pte, to_tosa
from earshot.lower.float_tail import TAIL
from earshot.lower.tosa import FRONT_END, GRAPH, PIECES, PROGRAM_REPORT, REPORT
from earshot.lower.tosa_with_cache import open_graph
from earshot.memory import peak_rss_mib
from earshot.quantize import program, schemes
from earshot.stages import stage

LOG, TEMPORARY = "tosa.log", ".graph-"  # the second: how the folder is called that a graph is written to


def write_graph(lowered: to_tosa.TosaGraph, result: dict, program_dir: Path, folder: Path, window_s: float) -> None:
    """Write the graph, what its targets need of it, and what it computes to `folder`.

    Its digest goes into `result`, and on how many windows our executor gave the bits of TOSA's reference model.

    Raises:
        ArtifactError: it did not on one of them, or the graph overflows.
    """
    (folder / GRAPH).write_bytes(lowered.content)
    (folder / module_names.TRACE).write_text(lowered.trace)
    module_names.write(folder / GRAPH, folder / module_names.TRACE)
    result["graph_sha256"] = sha256(folder / GRAPH)
    if lowered.tail:
        program.save(lowered.tail.program, folder / TAIL)
        cost = {"macs": lowered.tail.macs, "weights_kib": lowered.tail.weights_kib}
        result["float_tail"] = {"sha256": sha256(folder / TAIL), **cost}
    write_json(folder / pte.TEMPLATE, {"program": lowered.template})
    write_json(folder / REPORT, result)
    for name in (PROGRAM_REPORT, FRONT_END, PIECES):
        shutil.copyfile(program_dir / name, folder / name)
    if "cache_input" in result:
        shutil.copyfile(program_dir / FIRST_CACHE, folder / FIRST_CACHE)
    graph = open_graph(folder)
    with judge.extremes_compared(graph) as compared:
        golden.write(graph, folder, window_s)
        result["reference_windows"] = 1 + compared()


def cost(started: float) -> dict[str, float]:
    """What the lowering has taken since `started`, for graph.json."""
    return {"lowering_s": round(time.monotonic() - started, 2), "peak_rss_mib": peak_rss_mib()}


@stage("tosa")
def main(cfg: TosaStage) -> None:
    out = Path(cfg.program_dir)
    report = read_json(out / program.REPORT)
    if report["family"] == "host" or not report["quantize"]:
        raise ConfigError(f"program_dir={out}: made for the host, and TOSA is for NPUs; run the lower step with target=host")
    exported = program.read_made(out, report, report["n_mels"], report["outputs"])
    # Nothing of an earlier run may be taken for this one's.
    for name in (REPORT, LOG, GRAPH, TAIL, module_names.MODULES, pte.TEMPLATE, *golden.FILES_WITH_CACHE):
        (out / name).unlink(missing_ok=True)
    for left in out.glob(f"{TEMPORARY}*"):  # by a run that was killed
        shutil.rmtree(left)
    operator_set = schemes.operator_set(report["family"])
    head = {"operator_set": operator_set, "program_sha256": sha256(out / program.PROGRAM)}
    print(f"lowering {out} to {operator_set} ...", file=sys.stderr, flush=True)
    started = time.monotonic()
    try:
        lowered = to_tosa.lower(exported, operator_set, out / LOG)
        result = {"status": "ok", **head, **cost(started), **lowered.boundary, "operators_cpu": lowered.operators_cpu}
        with tempfile.TemporaryDirectory(prefix=TEMPORARY, dir=out) as temporary:
            write_graph(lowered, result, out, Path(temporary), report["window_s"])
            vectors = golden.FILES_WITH_CACHE if report.get("cache") else golden.FILES
            tail = [TAIL] if lowered.tail else []
            for name in (GRAPH, *tail, module_names.MODULES, pte.TEMPLATE, *vectors):
                (Path(temporary) / name).replace(out / name)
    except (LoweringError, ArtifactError) as error:  # also where the graph overflows: what it then computes is not defined
        result = {"status": "failed", "reason": str(error), **head, **cost(started)}
        print(f"{out}: not lowered: {error}", file=sys.stderr)
    write_json(out / REPORT, result)


if __name__ == "__main__":
    main()
