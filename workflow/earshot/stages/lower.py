"""Compile a quantized program for a target: program directory to variant directory.

A program that the compiler cannot take is a result, not an error: lower.json then has status failed and a reason, and the exit status is 0.
So is one that needs more memory than the target has: its status is over_budget.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from earshot.config import LowerStage
from earshot.errors import ArtifactError, ConfigError, LoweringError
from earshot.files import atomic_dir, read_json, sha256, write_json
from earshot.left_context import FIRST_CACHE
from earshot.lower import bundle, cycle_report, ethosu, golden, module_names, pte, tosa, vela_database, vela_report
from earshot.lower.float_tail import TAIL
from earshot.memory import peak_rss_mib
from earshot.provenance import provenance
from earshot.stages import stage

QUANTIZE_REPORT, PROGRAM = "quantize.json", "quantized.pt2"
REPORT, PTE, LOG = "lower.json", "model.pte", "vela.log"
COPIED = (QUANTIZE_REPORT, tosa.FRONT_END, tosa.PIECES)
OF_GRAPH = (tosa.GRAPH, tosa.REPORT, module_names.MODULES)
OF_VELA = (vela_report.SUMMARY, vela_report.PER_LAYER, *bundle.FILES, *cycle_report.FILES)
FILES = (PTE, *COPIED, FIRST_CACHE, *OF_GRAPH, TAIL, *golden.FILES_WITH_CACHE, *OF_VELA)


def check(cfg: LowerStage, report: dict) -> None:
    """Refuse a target that does not exist or that the program was not made for.

    Raises:
        ConfigError: it names the remedy.
    """
    if cfg.target.family != "host":
        ethosu.check(cfg.target)
        if not report["quantize"]:
            raise ConfigError(
                f"target={cfg.target.name}: computes in integers only, but {cfg.program_dir} is a float program; lower it with target=host"
            )
    if report["family"] != cfg.target.family:
        raise ConfigError(
            f"target={cfg.target.name}: of family {cfg.target.family}, but {cfg.program_dir} was quantized for family {report['family']}; "
            f"quantize with family={cfg.target.family}"
        )


def host(program_dir: Path, report: dict, folder: Path) -> dict[str, Any]:
    """Lower a program for this machine; what its runtime then loads is in `folder`. Returns what lower.json says of it."""
    from earshot.lower import xnnpack  # with the runtime and the quantizers, which an NPU's variant does without
    from earshot.quantize import program

    exported = program.read_made(program_dir, report, report["n_mels"], report["outputs"])
    try:
        lowered = xnnpack.lower(exported)
    except Exception as error:  # whatever the compiler ends with, the reason is for the report
        raise LoweringError(f"{type(error).__name__}: {str(error).strip()}"[:600]) from error
    (folder / PTE).write_bytes(lowered.pte)
    return {"operators": {"delegated": lowered.operators_delegated, "cpu": lowered.operators_cpu}}


def read_graph(program_dir: Path, report: dict) -> dict[str, Any]:
    """graph.json of a program, checked to be of this very program.

    Raises:
        ArtifactError: it is absent or of an earlier program, or the graph is damaged.
    """
    path = program_dir / tosa.REPORT
    graph = read_json(path)
    if graph["program_sha256"] != report["program_sha256"]:
        raise ArtifactError(f"{path}: made of an earlier {PROGRAM}; run the tosa step again")
    if graph["status"] == "ok" and sha256(program_dir / tosa.GRAPH) != graph["graph_sha256"]:
        raise ArtifactError(f"{program_dir / tosa.GRAPH}: damaged, not what the tosa step made; run that step again")
    return graph


def ethos_u(cfg: LowerStage, graph: dict, folder: Path, log: Path, window_s: float) -> dict[str, Any]:
    """Compile the graph of a program for an NPU; `folder` is then the device bundle. Returns what lower.json says of it."""
    if graph["status"] != "ok":
        raise LoweringError(graph["reason"])
    program_dir = Path(cfg.program_dir)
    with_cache = "cache_input" in graph
    tail = graph.get("float_tail")
    for name in (*OF_GRAPH, *([TAIL] if tail else []), *((FIRST_CACHE, *golden.FILES_WITH_CACHE) if with_cache else golden.FILES)):
        shutil.copyfile(program_dir / name, folder / name)
    template = read_json(program_dir / pte.TEMPLATE)["program"]
    with tempfile.TemporaryDirectory() as intermediate:
        content = ethosu.compile_graph((folder / tosa.GRAPH).read_bytes(), template, cfg.target, Path(intermediate), log)
        for name, path in vela_report.collect(Path(intermediate)).items():
            shutil.copyfile(path, folder / name)
        assert cfg.target.accelerator is not None  # `check` refuses a target without one
        cycles = cycle_report.write(folder, Path(intermediate) / vela_database.DATABASE, cfg.target.accelerator)
    (folder / PTE).write_bytes(content)
    npu = vela_report.npu(folder / vela_report.SUMMARY, folder / vela_report.PER_LAYER, window_s)
    if tail:  # its weights lie where those of the NPU's part do
        npu["flash_kib" if npu["flash_kib"] else "dram_kib"] += tail["weights_kib"]
        npu["macs_cpu"] = tail["macs"]
    bundle.write(folder, cfg.target, npu, window_s)
    too_large = ethosu.over_budget(cfg.target, npu["sram_kib"])
    verdict = {"status": "over_budget", "reason": too_large} if too_large else {}
    return {**verdict, "npu": {**npu, **cycles, "operators_cpu": graph["operators_cpu"]}}


@stage("lower")
def main(cfg: LowerStage) -> None:
    program_dir, out = Path(cfg.program_dir), Path(cfg.out)
    report = read_json(program_dir / QUANTIZE_REPORT)
    check(cfg, report)
    on_host, window_s = cfg.target.family == "host", report["window_s"]
    graph = {} if on_host else read_graph(program_dir, report)
    out.mkdir(parents=True, exist_ok=True)
    for name in (REPORT, LOG, *FILES):  # nothing of an earlier run may be taken for this one's
        (out / name).unlink(missing_ok=True)
    result = {"status": "ok", "target": cfg.target.name, "window_s": window_s, "program_sha256": report["program_sha256"]}
    print(f"lowering {program_dir} for {cfg.target.name} ...", file=sys.stderr, flush=True)
    started = time.monotonic()
    try:
        with atomic_dir(out / ".lowered") as folder:
            for name in COPIED:
                shutil.copyfile(program_dir / name, folder / name)
            lowered = host(program_dir, report, folder) if on_host else ethos_u(cfg, graph, folder, out / LOG, window_s)
    except LoweringError as error:
        result.update(status="failed", reason=str(error))
        print(f"{cfg.target.name}: not lowered: {error}", file=sys.stderr)
    else:
        for path in (out / ".lowered").iterdir():
            path.replace(out / path.name)
        (out / ".lowered").rmdir()
        result.update(lowered, pte_bytes=(out / PTE).stat().st_size, pte_sha256=sha256(out / PTE))
        if result["status"] != "ok":
            print(f"{cfg.target.name}: {result['reason']}", file=sys.stderr)
    # From the quantized program to the .pte, the share of all targets of the graph included.
    result["lowering_s"] = round(time.monotonic() - started + graph.get("lowering_s", 0), 2)
    result["peak_rss_mib"] = max(peak_rss_mib(), graph.get("peak_rss_mib", 0))
    write_json(out / REPORT, {**result, "environment": provenance()})


if __name__ == "__main__":
    main()
