"""The curves of a training, shown in MLflow while it runs; the training neither waits for MLflow nor fails with it."""

from __future__ import annotations

import atexit
import logging
import queue
import threading
from collections.abc import Mapping
from typing import Any

from earshot.config import Tracking
from earshot.mlflow_store import Store, flat, locked

WAITING_ROWS = 10_000  # rows kept for a slow server; what comes beyond is left to the track step
CLOSING_S = 15.0  # longest wait for a slow server at the end

logger = logging.getLogger(__name__)


class LiveRun:
    """The run of a model in the experiment: the one that the track step completes from the files of the training.

    At the first `log`, a thread opens the store; it sends what `log` is given. If it cannot, one warning says so, and the curves come with
    the track step. In distributed training, only rank 0 is to log.

    Args:
        tracking: where MLflow is; with `enabled: false` nothing is done.
        experiment: name of the experiment.
        model_id: id of the model, the name of its directory.
        params: configuration, nested; logged as `train.lr` and so on. A run of that id with other values gives way to a new one.
    """

    def __init__(self, tracking: Tracking, experiment: str, model_id: str, params: Mapping[str, Any]) -> None:
        self._rows: queue.Queue = queue.Queue(WAITING_ROWS)
        self._uri = tracking.uri if tracking.enabled else ""
        self._usable = tracking.enabled
        self._complained = False
        self._status: str | None = None
        self._thread = threading.Thread(target=self._send, args=(tracking, experiment, model_id, flat(params)), daemon=True)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Show `metrics` at `step`. Returns at once and never raises."""
        if not self._usable:
            return
        try:
            if not self._thread.ident:
                self._thread.start()
                atexit.register(self._stop)
            self._rows.put_nowait([(name, float(value), int(step)) for name, value in metrics.items()])
        except Exception as error:
            self._complain(error)

    def close(self, status: str = "FINISHED") -> None:
        """Wait, for a bounded time, until all is sent, and end the run with `status` (FINISHED, FAILED, KILLED). Never raises."""
        self._status = status
        self._stop()

    def __enter__(self) -> LiveRun:
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        self.close("FINISHED" if kind is None else "KILLED" if kind is KeyboardInterrupt else "FAILED")

    def _stop(self) -> None:
        """Without `close`, what was logged is sent and the run stays open, as after a crash: the next session goes on with it."""
        if not self._usable or not self._thread.ident:
            return
        self._usable = False
        atexit.unregister(self._stop)
        try:
            self._rows.put(None, timeout=CLOSING_S)
        except queue.Full:
            self._complain("it is too slow")
            return
        self._thread.join(CLOSING_S)
        if self._thread.is_alive():
            self._complain(f"it did not take the last rows within {CLOSING_S:.0f} s")

    def _send(self, tracking: Tracking, experiment: str, model_id: str, params: dict[str, str]) -> None:
        try:
            store = Store(tracking.uri, experiment, tracking.timeout_s)
            key = ("model", model_id)
            with locked(tracking.uri):
                run_id = store.open_run(store.runs().get(key), key, params)
            store.client.update_run(run_id, status="RUNNING")
            rows: list[list | None] = []
            while None not in rows:
                rows = [self._rows.get()]
                while not self._rows.empty():
                    rows.append(self._rows.get())
                store.log(run_id, points=[point for row in rows if row is not None for point in row])
            if self._status:
                store.client.set_terminated(run_id, self._status)
        except Exception as error:
            self._complain(error)
            self._usable = False

    def _complain(self, reason: object) -> None:
        if not self._complained:
            self._complained = True
            logger.warning("no live curves in MLflow at %s; training goes on, and the track step logs them later (%s)", self._uri, reason)
