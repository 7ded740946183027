"""MLflow's model registry: each finished variant as a version of one registered model, and an alias on the winner.

The registered model bears the experiment's name. A version is logged once: its tags say of which run and of which files it is.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import math
import re
import tempfile
import time
import wave
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version as installed
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from earshot import variant_metrics
from earshot.config import Decode, Tracking
from earshot.errors import ArtifactError
from earshot.files import sha256
from earshot.mlflow_store import Store, locked, reported
from earshot.naming import shortened

if TYPE_CHECKING:
    import pandas
    from mlflow.entities.model_registry import ModelVersion

LOADER = "earshot.served_model"  # named, not imported: to log a model takes no torch
WINNER = "winner"
VARIANT, DIGEST = "earshot.variant", "earshot.digest"
ABANDONED_S = 3600  # a model takes seconds to log: what is half logged after that long is nobody's work any more
# Of a variant's directory: what runs here, and what goes to a device.
FILES = (
    *("model.pte", "graph.tosa", "graph.json", "lower.json", "quantize.json"),
    *("front_end.json", "tokenizer.pieces", "first_cache.npy"),
)
PACKAGES = ("executorch", "mlflow", "numpy", "soundfile", "torch", "torchaudio")
SPOKEN = "turn on the light"  # the example


@dataclass(frozen=True)
class Candidate:
    """A finished variant."""

    id: str
    folder: Path
    content: dict[str, Any]  # of its metrics.json
    run_id: str

    def config(self) -> dict[str, Any]:
        """What the loader is told: as the variant was evaluated, but without a language model, whose files are no part of it."""
        of_variant = self.content["config"]
        decode = {**asdict(Decode()), **of_variant.get("decode", {})}
        if decode["method"] == "lm":
            decode |= {"method": "beam", "lm": None, "lexicon": None}
        return {"decode": decode, "overlap_s": of_variant.get("window", {}).get("overlap_s", 0.0)}

    def digest(self) -> str:
        digest = hashlib.sha256(json.dumps(self.config(), sort_keys=True).encode())
        for path in self.files():
            digest.update(path.name.encode() + b"\0" + sha256(path).encode())
        return digest.hexdigest()

    def told(self) -> str:
        """What people see beside the version."""
        wer, status = variant_metrics.figures(self.content).get("wer"), self.content["status"]
        told = [*([f"WER {wer:.2%}"] if wer is not None else []), *([status] if status != "ok" else [])]
        return ", ".join([*told, self.id.partition("/")[2]])  # columns are narrow: the figure first, and without the model

    def files(self) -> list[Path]:
        return [path for name in FILES if (path := self.folder / name).exists()]


def register(
    tracking: Tracking, experiment: str, logged: dict[str, Any], paths: Iterable[str | Path], marks: Mapping[str, Mapping[str, str]]
) -> dict[str, Any]:
    """Log each finished variant as a model and give the winner its alias; what is registered already is left alone.

    Args:
        logged: what `track.log_results` gave for `paths`.
        marks: tags of variants; where a search has winners, the best of them wins, else the best of all within their budgets.

    Returns: `name` of the registered model, `versions` (variant -> version), `winner` (variant, version, uri; None where no variant is
    within its budget), `created` and `seconds`, how many versions were made and in what time.

    Raises:
        ArtifactError: a file of a variant cannot be read.
        TrackingError: the store cannot be reached or used.
    """
    candidates = [_candidate(Path(path), logged) for path in paths]
    finished = [one for one in candidates if one.content["status"] != "failed"]
    started, created, versions = time.monotonic(), 0, {}
    store = Store(tracking.uri, experiment, tracking.timeout_s)
    with reported(tracking.uri), locked(tracking.uri):
        name = _registered_name(experiment)
        _make_registered(store, name)
        known = {(one.run_id, one.tags.get(DIGEST)): one for one in _versions(store, name)}
        example = None
        for one in tqdm(finished, desc="MLflow models", unit="model", disable=None):
            digest = one.digest()
            found = known.get((one.run_id, digest))
            if found is None:
                example = _example() if example is None else example
                found, created = _log(store, name, one, digest, example), created + 1
            elif found.description != one.told():
                store.client.update_model_version(name, found.version, one.told())
            versions[one.id] = found.version
        winner = _winner(finished, marks)
        _point_alias(store, name, versions[winner.id] if winner else None)
    told = winner and {"variant": winner.id, "version": versions[winner.id], "uri": f"models:/{name}@{WINNER}"}
    return {"name": name, "versions": versions, "winner": told, "created": created, "seconds": round(time.monotonic() - started, 2)}


def _candidate(path: Path, logged: dict[str, Any]) -> Candidate:
    content = variant_metrics.read(path)
    return Candidate(content["variant"], path.parent, content, logged["variants"][content["variant"]]["run_id"])


def _registered_name(experiment: str) -> str:
    return re.sub(r"[/:]", "_", experiment)  # what MLflow does not take in a registered model's name


def _make_registered(store: Store, name: str) -> None:
    from mlflow.exceptions import MlflowException

    told = "Variants of an earshot experiment: audio files in, words out. earshot is to be installed where one is loaded."
    try:
        store.client.create_registered_model(name, description=told)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _versions(store: Store, name: str) -> list[ModelVersion]:
    found: list[ModelVersion] = []
    token = None
    while True:
        page = store.client.search_model_versions(f"name = '{name}'", page_token=token)
        found += page
        token = page.token
        if not token:
            return found


def _log(store: Store, name: str, one: Candidate, digest: str, example: pandas.DataFrame) -> ModelVersion:
    """The model of a variant: its files and how to load them, in MLflow's own form, as a new version."""
    from mlflow import pyfunc
    from mlflow.entities import LoggedModelOutput
    from mlflow.models import Model, ModelSignature
    from mlflow.types import ColSpec, Schema

    if not one.files():
        raise ArtifactError(f"{one.folder}: none of {', '.join(FILES)} in it; run the lower step again")
    client = store.client
    long_ago_ms = round((time.time() - ABANDONED_S) * 1000)
    old = f"source_run_id = '{one.run_id}' AND creation_timestamp < {long_ago_ms}"
    for half in client.search_logged_models([store.experiment_id], filter_string=old):
        if half.status != "READY":  # of a pass that was cut off; a younger one may be another writer's, who is at it
            client.delete_logged_model(half.model_id)
    tags = {VARIANT: one.id, DIGEST: digest}
    short = shortened(re.sub(r"[^\w-]", "_", one.id.partition("/")[2]))
    logged = client.create_logged_model(store.experiment_id, name=short, source_run_id=one.run_id, tags=tags, model_type="transcriber")
    client.log_outputs(one.run_id, [LoggedModelOutput(logged.model_id, step=0)])
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "variant"
        data.mkdir()
        for path in one.files():
            (data / path.name).symlink_to(path.resolve())
        pyfunc.save_model(
            Path(folder) / "model",
            loader_module=LOADER,
            data_path=str(data),
            model_config=one.config(),
            signature=ModelSignature(Schema([ColSpec("binary", "audio")]), Schema([ColSpec("string", "words")])),
            input_example=example,
            # Of packages that are in an index; earshot is not, and MLflow would fetch whatever has its name there.
            pip_requirements=[f"{package}=={installed(package)}" for package in PACKAGES],
            mlflow_model=Model(
                artifact_path=logged.artifact_location, model_uuid=logged.model_id, model_id=logged.model_id, run_id=one.run_id
            ),
        )
        client.log_model_artifacts(logged.model_id, str(Path(folder) / "model"))
    client.finalize_logged_model(logged.model_id, "READY")
    return client.create_model_version(
        name, logged.artifact_location, run_id=one.run_id, tags=tags, description=one.told(), model_id=logged.model_id
    )


def _example() -> pandas.DataFrame:
    """One spoken file: nobody's voice, so that a server shows no audio of a corpus."""
    import pandas

    from earshot.corpus.espeak import Synthesizer, Utterance

    with contextlib.closing(Synthesizer()) as synthesizer:
        samples, rate_hz = synthesizer.speak(Utterance(SPOKEN, "en-us", rate_wpm=160, pitch=50, pitch_range=50, seed=0))
    content = io.BytesIO()
    with wave.open(content, "wb") as stream:
        stream.setnchannels(1)
        stream.setsampwidth(2)
        stream.setframerate(rate_hz)
        stream.writeframes(samples)
    return pandas.DataFrame({"audio": [content.getvalue()]})


def _winner(finished: Iterable[Candidate], marks: Mapping[str, Mapping[str, str]]) -> Candidate | None:
    """Of what is within its budget: the lowest word error rate among the winners of searches, or else among all."""

    def wer(one: Candidate) -> tuple[float, str]:
        return variant_metrics.figures(one.content).get("wer", math.inf), one.id

    good = [one for one in finished if one.content["status"] == "ok"]
    won = [one for one in good if marks.get(one.id, {}).get("earshot.winner_of")]
    return min(won or good, key=wer, default=None)


def _point_alias(store: Store, name: str, version: str | None) -> None:
    held = store.client.get_registered_model(name).aliases.get(WINNER)
    if version is not None and str(held) != str(version):
        store.client.set_registered_model_alias(name, WINNER, str(version))
    elif version is None and held is not None:
        store.client.delete_registered_model_alias(name, WINNER)
