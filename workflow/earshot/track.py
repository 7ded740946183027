"""MLflow as a sink: the metrics.json files of all variants, and the curves of their models, as runs. Logging again makes no second run."""

from __future__ import annotations

import csv
import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf
from tqdm import tqdm

from earshot import mlflow_pages, variant_metrics
from earshot.config import Tracking
from earshot.errors import ArtifactError
from earshot.files import read_json
from earshot.mlflow_store import DIGEST, PARENT, Key, Store, flat, locked, reported
from earshot.naming import variant_names
from earshot.search.proposals import SEARCHED

if TYPE_CHECKING:
    from mlflow.entities import Run

ARTIFACTS = "earshot.artifacts"
REASON = ("earshot.reason", "mlflow.note.content")  # the second is what MLflow shows as a run's description
COMPARED = "wer"  # logged first: MLflow compares runs by the first metric
UTTERANCES = "evaluation{}.utterances.csv"  # with the ending of another decoding than the default one, as metrics.json has it
VALUES = "values"  # before keys of the configuration: MLflow compares runs by the first parameters that differ, which are to be choices
PARITY, QAT = "parity.*", "qat.csv"  # beside the program: the ladder, the curves of quantization-aware training
VARIANT_FILES = ("lower.json", "vela_*.csv", "cycles.svg", "cycles_by_*.csv", "sram.svg")
MODEL_FILES = ("metrics.json", "config.yaml", "curves.csv")
# Of the folders results/sensitivity/MODEL/NAME/FAMILY and results/search/MODEL/NAME/TARGET: what their model's run keeps, in folders too.
SEARCH_FILES = ("sensitivity.svg", "sensitivity.csv", "result.json", "trials.csv", "candidates.json")
TABLES, SEARCHES = "sensitivity/*/*/*/sensitivity.svg", "search/*/*/*/result.json"
# Of results/report: they show the model's variants side by side.
REPORT_FILES = ("pareto.html", "report.html", "variants.csv", "operators.csv")


@dataclass(frozen=True)
class Entry:
    """A run as it is to be: what is logged, and a digest of it, by which a later pass sees that nothing has changed."""

    key: Key
    params: dict[str, str]
    points: list[tuple[str, float, int]]
    tags: dict[str, str]
    files: list[Path]
    digest: str
    folders: Mapping[Path, str] = field(default_factory=dict)  # of files that are not at the top of the run's artifacts
    name: str = ""  # what people see; the id where empty
    failed: bool = False


def find_variants(results: str | Path) -> list[Path]:
    """All metrics.json of variants under a results folder.

    Raises:
        ArtifactError: there is none.
    """
    found = sorted(Path(results).glob("variants/*/*/*/metrics*.json"))
    if not found:
        raise ArtifactError(f"{results}: no variants/*/*/*/metrics.json in it; give the folder that the workflow writes to, results=FOLDER")
    return found


def find(results: str | Path, pattern: str) -> list[str]:
    """The files of a results folder that have this pattern."""
    return sorted(map(str, Path(results).glob(pattern)))


def log_results(
    tracking: Tracking,
    experiment: str,
    results: str | Path,
    paths: Iterable[str | Path],
    marks: Mapping[str, Mapping[str, str]] | None = None,
    searched: Iterable[str | Path] = (),
) -> dict[str, Any]:
    """Log variants and the models that they are made of; what is logged already, and as it is now, is left alone.

    Args:
        marks: further tags of variants.
        searched: sensitivity.svg of sensitivity tables and result.json of searches, which their models' runs keep with what lies beside.

    Returns: uri, experiment_id, and `models` and `variants` (best WER first), both id -> {run_id, action}, with the action created, updated
    or unchanged; of a variant its status too.

    Raises:
        ArtifactError: a metrics.json is absent, damaged or breaks the schema; nothing has been logged then.
        TrackingError: the store cannot be reached or used.
    """
    contents = {Path(path): variant_metrics.read(path) for path in paths}
    order = sorted(contents, key=lambda path: (variant_metrics.figures(contents[path]).get("wer", math.inf), contents[path]["variant"]))
    models = {content["model"]: content for content in contents.values()}
    together = [path for name in REPORT_FILES if (path := Path(results) / "report" / name).exists()]
    folders = search_files(searched)
    entries = {
        name: model_entry(Path(results) / "train" / name, name, models[name], together, folders.get(name, {})) for name in sorted(models)
    }
    names = variant_names(content["variant"] for content in contents.values())
    store = Store(tracking.uri, experiment, tracking.timeout_s)
    logged: dict[str, Any] = {"uri": tracking.uri, "experiment_id": store.experiment_id, "models": {}, "variants": {}}
    with reported(tracking.uri), locked(tracking.uri):
        mlflow_pages.save_view(store)
        runs = store.runs()
        for name, entry in entries.items():
            logged["models"][name] = put(store, runs.get(entry.key), entry, None)
        for path in tqdm(order, desc="MLflow", unit="run", disable=None):
            entry = variant_entry(path, contents[path], tracking.log_pte)
            entry = replace(entry, name=names[entry.key[1]], tags={**entry.tags, **(marks or {}).get(entry.key[1], {})})
            parent_id = logged["models"][contents[path]["model"]]["run_id"]
            logged["variants"][entry.key[1]] = {**put(store, runs.get(entry.key), entry, parent_id), "status": contents[path]["status"]}
    return logged


def put(store: Store, existing: Run | None, entry: Entry, parent_id: str | None) -> dict[str, str]:
    """Make the run of `entry`, or bring `existing` up to date; the digest is written last, so that an interrupted pass is made up for."""
    files = " ".join(str(Path(entry.folders.get(path, ""), path.name)) for path in entry.files)
    tags = {**entry.tags, ARTIFACTS: files, DIGEST: entry.digest}
    if existing is not None and all(existing.data.tags.get(tag) == value for tag, value in tags.items()):
        store.rename(existing, entry.name)
        if parent_id and existing.data.tags.get(PARENT) != parent_id:
            store.tag(existing.info.run_id, {PARENT: parent_id})
        return {"run_id": existing.info.run_id, "action": "unchanged"}
    points: list[tuple[str, float, int]] | None = entry.points
    if existing is not None and (points := missing_points(store, existing, entry)) is None:
        store.client.delete_run(existing.info.run_id)
        existing, points = None, entry.points
    run_id = store.open_run(existing, entry.key, entry.params, name=entry.name, parent_id=parent_id)
    held = existing if existing is not None and existing.info.run_id == run_id else None
    store.log(run_id, points=points if held else entry.points)
    for path in entry.files:
        store.client.log_artifact(run_id, str(path), entry.folders.get(path))
    store.client.set_terminated(run_id, "FAILED" if entry.failed else "FINISHED")
    for tag in REASON:
        if held and tag in held.data.tags and tag not in tags:
            store.client.delete_tag(run_id, tag)
    store.tag(run_id, tags)
    return {"run_id": run_id, "action": "updated" if held else "created"}


def missing_points(store: Store, run: Run, entry: Entry) -> list[tuple[str, float, int]] | None:
    """The points that `run` lacks; None where it holds what MLflow cannot take back, so that another run has to take its place.

    That is, of a variant, a metric that is no more; of a model, a point that is not on the curve: it is from another training.
    """
    if entry.key[0] == "variant":
        stale = run.data.metrics.keys() - {name for name, _, _ in entry.points}
        return None if stale else [point for point in entry.points if run.data.metrics.get(point[0]) != point[1]]
    held: dict[tuple[str, int], float] = {}
    for name in {name for name, _, _ in entry.points} & run.data.metrics.keys():
        # A step that was trained again after a crash has two points: the later one counts.
        history = sorted(store.client.get_metric_history(run.info.run_id, name), key=lambda point: point.timestamp)
        held |= {(name, point.step): point.value for point in history}
    if any((name, step) in held and not _same(held[name, step], value) for name, value, step in entry.points):
        return None
    return [(name, value, step) for name, value, step in entry.points if (name, step) not in held]


def _same(live: float, written: float) -> bool:
    """Whether a point that was logged live is that of the file, which has fewer digits."""
    return math.isclose(live, written, rel_tol=1e-4, abs_tol=1e-9) or (math.isnan(live) and math.isnan(written))


def variant_entry(path: Path, content: dict[str, Any], log_pte: bool) -> Entry:
    """The run of a variant, from its metrics.json and the files beside it."""
    folder = path.parent
    files = [path, *(file for file in [variant_metrics.environment(path)] if file.exists())]
    files += [file for pattern in VARIANT_FILES for file in sorted(folder.glob(pattern))]
    of_program = variant_metrics.program_dir(content, folder)
    utterances = UTTERANCES.format(path.stem.removeprefix("metrics"))
    # What an NPU runs is evaluated with its program, once for all targets.
    files += [file for where in (folder, of_program) if (file := where / utterances).exists()][:1]
    if "parity" in content:
        files += sorted(of_program.glob(PARITY))
    files += sorted(of_program.glob(QAT))
    if log_pte and (folder / "model.pte").exists():
        files.append(folder / "model.pte")
    identity = {key: content[key] for key in ("model", "target", "corpus", "split")}
    tags = {f"earshot.{key}": str(value) for key, value in identity.items()} | {"earshot.status": content["status"]}
    if departs := content.get("parity", {}).get("departs"):
        tags["earshot.departs_at"] = f"{departs['operator']} in {departs['module']}"
    if "reason" in content:
        tags |= dict.fromkeys(REASON, content["reason"][:2000])
    return Entry(
        key=("variant", content["variant"]),
        params=flat(choices(content)) | {f"{VALUES}.{key}": value for key, value in flat(content["config"]).items()},
        points=[(name, value, 0) for name, value in sorted(variant_metrics.figures(content).items(), key=lambda item: item[0] != COMPARED)],
        tags=tags,
        files=files,
        digest=hashlib.sha256(path.read_bytes()).hexdigest(),
        failed=content["status"] == "failed",
    )


def choices(content: dict[str, Any]) -> dict[str, Any]:
    """What tells a variant from others, by short names: a scheme that a search made up has its own, not that of the one it began with."""
    _, scheme, target = content["variant"].split("/")
    named = {"model": content["model"], "scheme": scheme, "target": target, "corpus": content["corpus"], "split": content["split"]}
    made_up = {"quant": scheme.partition("-")[0]} if scheme.startswith(SEARCHED) else {}
    return {**named, **content["choices"], **made_up}


def search_files(searched: Iterable[str | Path]) -> dict[str, dict[Path, str]]:
    """Of each model the files of its sensitivity tables and searches, with their folders among the artifacts of its run."""
    files: dict[str, dict[Path, str]] = {}
    for folder in (Path(path).absolute().parent for path in searched):
        kind, model, *names = folder.parts[-4:]
        kept = [path for name in SEARCH_FILES if (path := folder / name).exists()]
        files.setdefault(model, {}).update(dict.fromkeys(kept, "/".join([kind, *names])))
    return files


def model_entry(folder: Path, model_id: str, content: dict[str, Any], together: list[Path], folders: Mapping[Path, str]) -> Entry:
    """The run of a model: parameters, curves and summary of its training, as far as its directory has them.

    Args:
        content: metrics.json of one of the model's variants, for the choices.
        together: files of the report, which the run keeps.
        folders: further files, with their folders among its artifacts.
    """
    files = [folder / name for name in MODEL_FILES if (folder / name).exists()]
    names = {file.name for file in files}
    params = flat({key: value for key, value in content["choices"].items() if key in ("corpus", "model", "train")})
    if "config.yaml" in names:
        params |= flat(OmegaConf.to_container(OmegaConf.load(folder / "config.yaml")))
    points = read_curves(folder / "curves.csv") if "curves.csv" in names else []
    if "metrics.json" in names:
        curves, last = {name for name, _, _ in points}, max((step for _, _, step in points), default=0)
        summary = read_json(folder / "metrics.json")
        numbers = {key: value for key, value in summary.items() if isinstance(value, int | float) and key != "schema_version"}
        if throughput := summary.get("throughput"):
            numbers["audio_s_per_s"] = throughput["audio_s_per_s"]
            numbers |= {f"step_s_{part}": seconds for part, seconds in throughput["step_s"].items()}
        points += [(key, value, last) for key, value in numbers.items() if key not in curves]
    files += [*together, *folders]
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
    return Entry(("model", model_id), params, points, {"earshot.model": model_id}, files, digest, folders)


def read_curves(path: Path) -> list[tuple[str, float, int]]:
    """The points of a curves.csv (a column `step`, the others metrics), as (name, value, step).

    Raises:
        ArtifactError: no column `step`, or something in a cell that is no number.
    """
    with path.open(newline="") as stream:
        try:
            return [
                (name, float(cell), int(float(row["step"])))
                for row in csv.DictReader(stream)
                for name, cell in row.items()
                if name != "step" and cell not in ("", None)
            ]
        except (KeyError, ValueError, TypeError) as error:
            raise ArtifactError(f"{path}: not a table of steps and numbers ({error!r}); delete it and train again") from error
