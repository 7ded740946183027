"""Write a trained model for those who deploy it elsewhere: `python -m earshot.stages.export_model model_dir=... out=FOLDER`.

Each format is read back and compared with the model before it is kept; export.json says by how much it differs.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from earshot import windows
from earshot.config import SAMPLE_RATE_HZ, ExportModelStage
from earshot.errors import ArtifactError, ConfigError
from earshot.export import golden
from earshot.export.formats import AUDIO, FORMATS, INPUT, OUTPUT, Format, Subject
from earshot.files import sha256, write_json
from earshot.model import checkpoint
from earshot.stages import stage

REPORT = "export.json"
OF_ONNX = ("onnx", "onnxscript", "onnxruntime")
VERSIONS = ("torch", "executorch", "onnx", "onnxruntime")


def check(cfg: ExportModelStage) -> None:
    """Refuse, before any work, what cannot be exported here.

    Raises:
        ConfigError: it names the remedy.
    """
    absent = [name for name in OF_ONNX if importlib.util.find_spec(name) is None]
    if "onnx" in cfg.export.formats and absent:
        remedy = "pip install -e '.[onnx]' -c envs/requirements.lock"
        raise ConfigError(f"formats: onnx needs {', '.join(absent)}, not installed here; {remedy}, or leave onnx out of formats")
    if cfg.window.left_context_s:
        raise ConfigError(f"window.left_context_s={cfg.window.left_context_s:g}: exports have no cache of left context; set it to 0")
    if cfg.tokenizer_model and not Path(cfg.tokenizer_model).is_file():
        raise ConfigError(f"tokenizer_model={cfg.tokenizer_model}: no such file; give SentencePiece's model, or leave it out")
    if Path(cfg.out).resolve() == Path(cfg.model_dir).resolve():
        raise ConfigError(f"out={cfg.out}: is the model directory itself; give another folder")


def subject(cfg: ExportModelStage) -> Subject:
    """The model with what it computes of the golden signal.

    Raises:
        ArtifactError: the model directory lacks a file or is damaged, or `golden` is of another front end.
    """
    recognizer = checkpoint.load(cfg.model_dir)
    frames = windows.frames_of(cfg.window, recognizer.front_end)
    audio = golden.window(recognizer.front_end, frames, cfg.golden)
    features = recognizer.front_end(audio[0])[None]
    with torch.inference_mode():
        logits = recognizer.model(features)
    tokenizer = Path(cfg.tokenizer_model) if cfg.tokenizer_model else None
    return Subject(Path(cfg.model_dir), tokenizer, recognizer, frames, audio, features, logits)


def export(one: Format, of: Subject, out: Path) -> dict[str, Any]:
    """Write a format; what export.json says of it. Files that depart from the model do not come to `out`."""
    with tempfile.TemporaryDirectory(prefix=".export-", dir=out) as work:
        try:
            one.write(of, Path(work))
            difference = one.difference(of, Path(work))
        except Exception as error:  # whatever an exporter ends with: the other formats are worth having
            return {"status": "failed", "reason": f"{type(error).__name__}: {str(error).strip()}"[:600]}
        result = {"largest_difference": difference, "of": one.wanted, "allowed": one.tolerance}
        if not difference <= one.tolerance:
            return {"status": "refused", "reason": f"departs from the model by {difference:.2g}, allowed is {one.tolerance:g}", **result}
        files = {path.name: {"bytes": path.stat().st_size, "sha256": sha256(path)} for path in sorted(Path(work).iterdir())}
        for name in files:
            Path(work, name).replace(out / name)
    return {"status": "ok", **result, "files": files}


def versions() -> dict[str, str]:
    found = {name: importlib.util.find_spec(name) for name in VERSIONS}
    return {name: importlib.metadata.version(name) for name, spec in found.items() if spec}


@stage("export_model", group="export")
def main(cfg: ExportModelStage) -> None:
    check(cfg)
    of, out = subject(cfg), Path(cfg.out)
    out.mkdir(parents=True, exist_ok=True)
    for name in (REPORT, *(name for one in FORMATS.values() for name in one.files)):  # nothing of an earlier export is taken for this one's
        (out / name).unlink(missing_ok=True)
    results = {}
    for name in dict.fromkeys(cfg.export.formats):
        results[name] = one = export(FORMATS[name], of, out)
        detail = f"largest difference {one['largest_difference']:.2g}" if "largest_difference" in one else one["reason"]
        print(f"{name}: {one['status']}, {detail}", file=sys.stderr, flush=True)
    write_json(
        out / REPORT,
        {
            "model_sha256": checkpoint.model_digest(cfg.model_dir),
            "golden": cfg.golden or "made-up signal",
            "sample_rate_hz": SAMPLE_RATE_HZ,
            "window_s": cfg.window.seconds,
            AUDIO: list(of.audio.shape),
            INPUT: list(of.features.shape),
            OUTPUT: list(of.logits.shape),
            "versions": versions(),
            "formats": results,
        },
    )
    lost = [f"{name} {one['status']} ({' '.join(one['reason'].split())})" for name, one in results.items() if one["status"] != "ok"]
    if lost:
        raise ArtifactError(f"{out / REPORT}: {'; '.join(lost)}; leave it out of formats, or report this with the model")


if __name__ == "__main__":
    main()
