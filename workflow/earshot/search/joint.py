"""The joint space: a scheme for each part and a calibration for all, by Optuna's tree-structured Parzen estimator for two objectives.

Ozaki et al., Multiobjective tree-structured Parzen estimator (2022). The study lies in SQLite, so that an interrupted search goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import optuna
from optuna.samplers import TPESampler
from optuna.trial import TrialState
from tqdm import tqdm

from earshot.errors import ArtifactError
from earshot.search.candidates import Point

STUDY, CALIBRATION = "search", "calibration"


@dataclass(frozen=True)
class Space:
    """What there is to choose from; the first scheme is the base."""

    parts: list[str]
    schemes: list[str]
    calibrations: list[str]

    def options(self) -> dict[str, list[str]]:
        """By the name of a parameter."""
        return {CALIBRATION: self.calibrations, **{part: self.schemes for part in self.parts}}


def explore(
    space: Space,
    measure: Callable[[dict[str, str], str], Point],
    cost: Callable[[dict[str, str]], float],
    first: Iterable[tuple[dict[str, str], str]],
    trials: int,
    seed: int,
    store: Path,
) -> list[Point]:
    """Points of the space, as many as `trials`, those that an earlier call left in `store` included.

    Args:
        measure: an assignment with a calibration, compared.
        cost: what is to be small besides the noise.
        first: what is tried before anything else.

    Raises:
        ArtifactError: the store cannot be used, or is of another space.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    store.parent.mkdir(parents=True, exist_ok=True)
    options = space.options()
    try:
        storage = optuna.storages.RDBStorage(f"sqlite:///{store}")
        known = {one.study_name for one in optuna.get_all_study_summaries(storage)}
    except Exception as error:  # whatever SQLAlchemy and Optuna's versions find wrong with the file
        raise ArtifactError(f"{store}: no study that can be gone on with ({' '.join(str(error).split())[:200]}); delete it") from error
    study = optuna.create_study(storage=storage, study_name=STUDY, directions=["minimize", "minimize"], load_if_exists=True)
    if STUDY in known and study.user_attrs.get("space") != options:
        raise ArtifactError(f"{store}: a study of other parts, schemes or calibrations; delete it")
    study.set_user_attr("space", options)
    done = study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
    study.sampler = TPESampler(seed=seed + len(done), multivariate=True)
    for assignment, calib in first:
        words = {part: assignment.get(part, space.schemes[0]) for part in space.parts}
        study.enqueue_trial({CALIBRATION: calib, **words}, skip_if_exists=True)
    seen = {_key(one.params): _point(one, space) for one in done}

    def objective(trial: optuna.Trial) -> tuple[float, float]:
        key = _key({name: trial.suggest_categorical(name, values) for name, values in options.items()})
        if key not in seen:
            assignment, calib = _mixture(trial.params, space)
            seen[key] = measure(assignment, calib)
        point = seen[key]
        trial.set_user_attr("noise", point.noise)
        trial.set_user_attr("loss", point.loss)
        return point.noise, cost(point.assignment)

    with tqdm(total=trials, initial=min(trials, len(done)), desc="search", unit="trial", disable=None) as bar:
        study.optimize(objective, n_trials=max(0, trials - len(done)), callbacks=[lambda *_: bar.update()])
    return list(seen.values())


def _key(params: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(params.items()))


def _mixture(params: Mapping[str, str], space: Space) -> tuple[dict[str, str], str]:
    return {part: params[part] for part in space.parts if params[part] != space.schemes[0]}, params[CALIBRATION]


def _point(trial: optuna.trial.FrozenTrial, space: Space) -> Point:
    assignment, calib = _mixture(trial.params, space)
    return Point(calib, assignment, trial.user_attrs["noise"], trial.user_attrs["loss"])
