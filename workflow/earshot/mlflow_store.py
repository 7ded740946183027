"""A connection to one experiment of an MLflow store: made once, bounded in time, its runs found again by their tags.

MLflow is imported when a store is opened, not before: the import takes longer than most stages' own start.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import sqlite3
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from earshot.errors import EarshotError, TrackingError
from earshot.files import atomic
from earshot.naming import shortened

if TYPE_CHECKING:
    from mlflow.entities import Run

KIND, IDENTITY, DIGEST = "earshot.kind", "earshot.id", "earshot.digest"
PARENT, NAME = "mlflow.parentRunId", "mlflow.runName"
SQLITE = "sqlite:///"
# What MLflow takes in one request, and of one parameter's value.
BATCH_METRICS, BATCH_PARAMS, PARAM_CHARACTERS = 1000, 100, 500
ORDER = ["attributes.start_time ASC", "attributes.run_id ASC"]
QUIET_LOGGERS = ("mlflow", "alembic", "urllib3.connectionpool")

LOCKED = "database is locked"  # in SQLite's words
REFUSED = ("UNAUTHENTICATED", "PERMISSION_DENIED", "CUSTOMER_UNAUTHORIZED")

Key = tuple[str, str]  # kind of run, id of what it shows


@contextlib.contextmanager
def reported(uri: str) -> Iterator[None]:
    """Turns what MLflow and what lies under it raise into a TrackingError of one line."""
    try:
        yield
    except EarshotError:
        raise
    except Exception as error:
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        if not isinstance(error, OSError | sqlite3.Error | MlflowException | SQLAlchemyError):
            raise
        what = " ".join(str(error).split())[:300] or type(error).__name__
        remedy = "start the server or choose another store (tracking=sqlite, tracking=server, tracking.uri=...)"
        if getattr(error, "error_code", "") in REFUSED or "not authenticated" in what:
            remedy = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, for a user who may write there"
        elif LOCKED in what:
            what, remedy = LOCKED, f"another process writes to it; wait for it, or find and end it (fuser {uri.removeprefix(SQLITE)})"
        raise TrackingError(
            f"{uri}: MLflow cannot be used ({what}); nothing is lost, the figures stand in the metrics.json files: "
            f"{remedy}, and run this step again"
        ) from error


@contextlib.contextmanager
def locked(uri: str) -> Iterator[None]:
    """One process of this machine at a time: between two that look for a run, find none and make it, there would be two runs."""
    if uri.startswith(SQLITE):
        path = Path(uri.removeprefix(SQLITE) + ".lock")
        path.parent.mkdir(parents=True, exist_ok=True)
    else:
        path = Path(tempfile.gettempdir()) / f"earshot-{os.getuid()}-{hashlib.sha256(uri.encode()).hexdigest()[:16]}.lock"
    with path.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


class Store:
    """An experiment of an MLflow store.

    Args:
        uri: sqlite:///FILE (made where it is not there yet), or http(s)://HOST:PORT of a server.
        experiment: name of the experiment; made where there is none.
        timeout_s: longest wait for one answer of a server, unless MLFLOW_HTTP_REQUEST_TIMEOUT is set.

    Raises:
        TrackingError: the store cannot be reached or used. Its methods raise MLflow's own errors: call them within `reported`.
    """

    def __init__(self, uri: str, experiment: str, timeout_s: int) -> None:
        self.uri = uri
        for name, value in (
            ("MLFLOW_HTTP_REQUEST_TIMEOUT", timeout_s),
            ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", 1),
            ("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true"),
            ("MLFLOW_LOGGING_LEVEL", "ERROR"),
            ("MLFLOW_DISABLE_TELEMETRY", "true"),
            ("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false"),
        ):
            os.environ.setdefault(name, str(value))
        for name in QUIET_LOGGERS:
            logging.getLogger(name).setLevel(logging.ERROR)
        with reported(uri):
            if uri.startswith(("http://", "https://")):
                _answers(uri, int(os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"]))
            from mlflow import MlflowClient

            with locked(uri):
                if uri.startswith(SQLITE):
                    _make_sqlite(Path(uri.removeprefix(SQLITE)))
                self.client = MlflowClient(tracking_uri=uri)
                self.experiment_id = self._experiment(experiment)

    def _experiment(self, name: str) -> str:
        found = self.client.get_experiment_by_name(name)
        if found is None:
            # Beside the SQLite file, so that they move together; a server keeps artifacts where it was told to.
            beside = str(Path(self.uri.removeprefix(SQLITE)).resolve().parent / "mlartifacts") if self.uri.startswith(SQLITE) else None
            from mlflow.exceptions import MlflowException

            try:
                return self.client.create_experiment(name, artifact_location=beside)
            except MlflowException as error:
                found = self.client.get_experiment_by_name(name)
                if error.error_code != "RESOURCE_ALREADY_EXISTS" or found is None:
                    raise  # else a process of another machine was faster
                return found.experiment_id
        if found.lifecycle_stage == "deleted":
            self.client.restore_experiment(found.experiment_id)
        return found.experiment_id

    def runs(self) -> dict[Key, Run]:
        """The runs that earshot logged into the experiment."""
        return self._settled(f"tags.`{KIND}` != ''")

    def _settled(self, condition: str) -> dict[Key, Run]:
        """The runs of a condition, the first where there are several of a key, whom another process sees first too; the others are deleted.

        There are several where processes of two machines made one at once, or where the answer to a request was lost and it was repeated.
        """
        found: dict[Key, Run] = {}
        token = None
        while True:
            page = self.client.search_runs([self.experiment_id], condition, max_results=1000, order_by=ORDER, page_token=token)
            for run in page:
                first = found.setdefault((run.data.tags[KIND], run.data.tags.get(IDENTITY, "")), run)
                if first is not run:
                    self.client.delete_run(run.info.run_id)
            token = page.token
            if not token:
                return found

    def open_run(self, existing: Run | None, key: Key, params: Mapping[str, str], *, name: str = "", parent_id: str | None = None) -> str:
        """The id of a run with these parameters: `existing` where it has them or lacks some, else a new one in its place.

        MLflow never changes a parameter that was logged.
        """
        if existing is not None and any(existing.data.params.get(param, value) != value for param, value in params.items()):
            self.client.delete_run(existing.info.run_id)
            existing = None
        tags = {KIND: key[0], IDENTITY: key[1], **({PARENT: parent_id} if parent_id else {})}
        if existing is None:
            made = self.client.create_run(self.experiment_id, run_name=shortened(name or key[1]), tags=tags)
            condition = f"tags.`{KIND}` = {_quoted(key[0])} AND tags.`{IDENTITY}` = {_quoted(key[1])}"
            existing = self._settled(condition).get(key, made)
        self.rename(existing, name)
        run_id = existing.info.run_id
        self.log(run_id, params={param: value for param, value in params.items() if param not in existing.data.params})
        self.tag(run_id, {tag: value for tag, value in tags.items() if existing.data.tags.get(tag) != value})
        return run_id

    def rename(self, run: Run, name: str) -> None:
        """Give a run the name that it is to have now, if any."""
        if name and run.info.run_name != shortened(name):
            self.client.update_run(run.info.run_id, name=shortened(name))

    def log(self, run_id: str, *, params: Mapping[str, str] | None = None, points: list[tuple[str, float, int]] | None = None) -> None:
        """Log parameters, and points (name, value, step) of metrics."""
        from mlflow.entities import Metric, Param

        now_ms = int(time.time() * 1000)
        metrics = [Metric(name, float(value), now_ms, step) for name, value, step in points or []]
        for start in range(0, len(metrics), BATCH_METRICS):
            self.client.log_batch(run_id, metrics=metrics[start : start + BATCH_METRICS])
        items = [Param(name, value) for name, value in (params or {}).items()]
        for start in range(0, len(items), BATCH_PARAMS):
            self.client.log_batch(run_id, params=items[start : start + BATCH_PARAMS])

    def tag(self, run_id: str, tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        if tags:
            self.client.log_batch(run_id, tags=[RunTag(name, value) for name, value in tags.items()])


def _quoted(value: str) -> str:
    """A text in MLflow's language of conditions, which has no escape for a quote: the other kind stands around it."""
    return f'"{value}"' if "'" in value else f"'{value}'"


def _answers(uri: str, timeout_s: int) -> None:
    """Ask the server for anything at all: a dead one is found out in one short wait, without MLflow's own retries."""
    import requests

    requests.get(f"{uri.rstrip('/')}/health", timeout=timeout_s)


def _make_sqlite(path: Path) -> None:
    """Make the SQLite store `path` where there is none, and find out whether it can be read.

    It is made under a temporary name: one that was killed half-way would not be taken up again.
    """
    if not path.exists():
        from mlflow import MlflowClient

        with atomic(path) as temporary:
            MlflowClient(tracking_uri=f"{SQLITE}{temporary}").search_experiments(max_results=1)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA schema_version").fetchone()  # MLflow would try a damaged file for minutes


def flat(values: Any, prefix: str = "") -> dict[str, str]:
    """Nested values as MLflow parameters: `{"quant": {"scheme": "int8_pc"}}` becomes `{"quant.scheme": "int8_pc"}`."""
    if isinstance(values, Mapping):
        joined: dict[str, str] = {}
        for key, value in values.items():
            joined |= flat(value, f"{prefix}.{key}" if prefix else str(key))
        return joined
    name = "".join(c if c.isalnum() or c in "_-. :/" else "_" for c in prefix)
    return {name: str(values)[:PARAM_CHARACTERS]}
