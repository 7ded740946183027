"""Compile a quantized program for a target: program directory to variant directory.

A program that the compiler cannot take is a result, not an error: lower.json then has status failed and a reason, and the exit status is 0.
"""

from __future__ import annotations

import resource
import shutil
import sys
import tempfile
import time
from pathlib import Path

from earshot.config import LowerStage
from earshot.errors import ConfigError, LoweringError
from earshot.files import atomic_dir, read_json, sha256, write_json
from earshot.lower import bundle, ethosu, tosa, vela_report, xnnpack
from earshot.lower.edge import Lowered
from earshot.model.subsampling import OutputGrid
from earshot.quantize import program
from earshot.stages import stage

REPORT, PTE, LOG = "lower.json", "model.pte", "vela.log"
COPIED = (program.REPORT, program.FRONT_END, program.PIECES)
FILES = (PTE, *COPIED, tosa.GRAPH, tosa.BOUNDARY, vela_report.SUMMARY, vela_report.PER_LAYER, *bundle.FILES)


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


def host(exported, folder: Path) -> tuple[Lowered, dict]:
    """Lower for this machine; what its runtime then loads is in `folder`."""
    try:
        lowered = xnnpack.lower(exported)
    except Exception as error:  # whatever the compiler ends with, the reason is for the report
        raise LoweringError(f"{type(error).__name__}: {str(error).strip()}"[:600]) from error
    (folder / PTE).write_bytes(lowered.pte)
    return lowered, {"delegated": lowered.operators_delegated, "cpu": lowered.operators_cpu}


def ethos_u(exported, cfg: LowerStage, folder: Path, log: Path, window_s: float) -> tuple[Lowered, dict]:
    """Compile for an NPU; `folder` then holds what `bundle` starts from."""
    with tempfile.TemporaryDirectory() as intermediate:
        lowered = ethosu.lower(exported, cfg.target, Path(intermediate), log)
        if not lowered.boundary:
            left = ", ".join(f"{n} {kind}" for kind, n in lowered.operators_cpu.items())
            raise LoweringError(f"{cfg.target.accelerator} does not take the whole program; left to the CPU: {left}")
        for name, path in vela_report.collect(Path(intermediate)).items():
            shutil.copyfile(path, folder / name)
    (folder / PTE).write_bytes(lowered.pte)
    npu = vela_report.npu(folder / vela_report.SUMMARY, folder / vela_report.PER_LAYER, window_s)
    return lowered, {**npu, "operators_cpu": lowered.operators_cpu}


@stage("lower")
def main(cfg: LowerStage) -> None:
    program_dir, out = Path(cfg.program_dir), Path(cfg.out)
    report = read_json(program_dir / program.REPORT)
    check(cfg, report)
    path, grid = program_dir / program.PROGRAM, OutputGrid(report["subsampling_stages"])
    exported = program.read(path)
    window_s = report["window_s"]
    program.check_fits(exported, path, report["window_frames"], report["n_mels"], grid, report["outputs"], report["quantize"])
    out.mkdir(parents=True, exist_ok=True)
    for name in (REPORT, LOG, *FILES):  # nothing of an earlier run may be taken for this one's
        (out / name).unlink(missing_ok=True)
    result = {"status": "ok", "target": cfg.target.name, "window_s": window_s, "program_sha256": sha256(program_dir / program.PROGRAM)}
    print(f"lowering {program_dir} for {cfg.target.name} ...", file=sys.stderr, flush=True)
    started = time.monotonic()
    try:
        with atomic_dir(out / ".lowered") as folder:
            for name in COPIED:
                shutil.copyfile(program_dir / name, folder / name)
            if cfg.target.family == "host":
                lowered, result["operators"] = host(exported, folder)
            else:
                lowered, result["npu"] = ethos_u(exported, cfg, folder, out / LOG, window_s)
            result["lowering_s"] = round(time.monotonic() - started, 2)
            result["peak_rss_mib"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)
            result["pte_bytes"] = len(lowered.pte)
            if cfg.target.family != "host":
                write_json(folder / tosa.BOUNDARY, {**lowered.boundary, "graph_sha256": sha256(folder / tosa.GRAPH)})
                bundle.write(folder, cfg.target, result["npu"], window_s)
    except LoweringError as error:
        result.update(status="failed", reason=str(error), lowering_s=round(time.monotonic() - started, 2))
        print(f"{cfg.target.name}: not lowered: {error}", file=sys.stderr)
    else:
        for path in (out / ".lowered").iterdir():
            path.replace(out / path.name)
        (out / ".lowered").rmdir()
    write_json(out / REPORT, result)


if __name__ == "__main__":
    main()
