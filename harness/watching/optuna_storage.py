"""Optuna's view of a study in a file of its own, for optuna-dashboard: one Optuna study per cell.

A copy: searches live in memory and are rebuilt from the store, so they read nothing from here. A run goes on with the file of
the last one where that holds what it would write, because writing takes 10 to 20 ms a trial, and the answers of a large store
come all at once.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sqlite3
from collections import defaultdict, deque
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from harness.records import TrialSpec
from harness.watching import Watcher

_WAIT_SECONDS = 30
"""For a reader that holds the file."""


class OptunaStorage(Watcher):
    """What a trial takes does not grow with their number. A file that cannot be written ends the copy, not the study."""

    def __init__(self, file: Path, cells: Iterable[str] = ()) -> None:
        """`file` (SQLite) appears with the first trial; one of another form is replaced. `cells`: all of the study."""
        self._file = file
        self._cells = set(cells)
        self._storage: Any = None
        self._studies: dict[str, Any] = {}
        self._held: dict[str, deque[Any]] = {}
        """Cell -> what the file holds of its trials, in their order, of which this run has not been told yet."""
        self._told: dict[str, list[tuple[Any, dict[str, Any]]]] = defaultdict(list)
        """Cell -> those of its trials that the file was found to hold, with their attributes."""
        self._broken = False
        try:
            with contextlib.suppress(sqlite3.Error):
                self._held = _read(file)
            if not self._held:
                for name in (file.name, f"{file.name}-journal"):
                    file.with_name(name).unlink(missing_ok=True)
        except OSError as error:  # a folder, or another's file
            self._give_up(error)

    def told(self, cell_id: str, spec: TrialSpec, trial: Any) -> None:
        """User attributes name the trial: `key`, and `index`, its number in the cell."""
        if self._broken:
            return
        attributes, held = {"key": spec.key, "index": spec.index}, self._held.get(cell_id)
        if not held:
            self._add(cell_id, [(trial, attributes)])
            return
        self._told[cell_id].append((trial, attributes))
        if held[0] == _as_held(trial, attributes["key"]):
            held.popleft()
        else:
            self._start_anew(cell_id)

    def _start_anew(self, cell_id: str) -> None:
        """The file holds other trials of the cell than this run has been told of."""
        self._held.pop(cell_id)
        self._add(cell_id, self._told.pop(cell_id, []), anew=True)

    def _add(self, cell_id: str, trials: list[tuple[Any, dict[str, Any]]], anew: bool = False) -> None:
        import optuna
        from optuna.exceptions import StorageInternalError
        from sqlalchemy.exc import SQLAlchemyError

        try:
            if self._storage is None:
                self._storage = _open(self._file)
            if anew:
                optuna.delete_study(study_name=cell_id, storage=self._storage)
                self._studies.pop(cell_id, None)
            if trials and cell_id not in self._studies:
                self._studies[cell_id] = optuna.create_study(
                    storage=self._storage, study_name=cell_id, direction="maximize", load_if_exists=True
                )
            for trial, attributes in trials:
                self._studies[cell_id].add_trial(_with_attributes(trial, attributes))
        except (SQLAlchemyError, StorageInternalError, OSError) as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self._broken = True
        logging.getLogger("harness").warning("%s is not kept any further: %s", self._file, error)

    def close(self) -> None:
        fewer = [cell_id for cell_id, held in self._held.items() if held and cell_id in self._told]
        gone = [cell_id for cell_id in self._held if self._cells and cell_id not in self._cells]
        for cell_id in (*fewer, *gone):
            if not self._broken:
                self._start_anew(cell_id)
        if self._storage is not None:
            self._storage.remove_session()
            self._storage.engine.dispose()
            self._storage = None


def _read(file: Path) -> dict[str, deque[Any]]:
    """Cell -> `_as_held` of its trials, in their order; {} where there is no file, or one of another Optuna.

    Raises sqlite3.Error for a file that is none of Optuna's.
    """
    import optuna

    if not file.is_file():
        return {}
    with contextlib.closing(sqlite3.connect(file, timeout=_WAIT_SECONDS)) as connection:
        if connection.execute("SELECT library_version FROM version_info").fetchall() != [(optuna.__version__,)]:
            return {}
        if connection.execute("PRAGMA quick_check").fetchall() != [("ok",)]:  # after a power cut
            return {}
        ranges: dict[int, list[Any]] = defaultdict(list)
        for trial_id, *one in connection.execute(
            "SELECT trial_id, param_name, param_value, distribution_json FROM trial_params"
        ):
            ranges[trial_id].append(tuple(one))
        held: dict[str, deque[Any]] = defaultdict(deque)
        for cell_id, trial_id, state, value, key in connection.execute(
            "SELECT study_name, trials.trial_id, state, value, value_json FROM trials JOIN studies USING (study_id) "
            "JOIN trial_user_attributes USING (trial_id) LEFT JOIN trial_values USING (trial_id) "
            "WHERE trial_user_attributes.key = 'key' ORDER BY study_name, number"
        ):
            held[cell_id].append((json.loads(key), state, value, sorted(ranges[trial_id])))
    return held


def _as_held(trial: Any, key: Any) -> Any:
    """What tells one trial from another in the file."""
    from optuna.distributions import distribution_to_json

    ranges = trial.distributions.items()
    return (
        key,
        trial.state.name,
        trial.value,
        sorted((name, one.to_internal_repr(trial.params[name]), distribution_to_json(one)) for name, one in ranges),
    )


class _Hasty(sqlite3.Connection):
    """Waits for no disk, which takes longer than all else: a power cut costs nothing but a copy."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.execute("PRAGMA synchronous=OFF")


def _open(file: Path) -> Any:
    """The storage of a file that does not exist, or that `_read` has found to be of this Optuna."""
    import optuna

    file.parent.mkdir(parents=True, exist_ok=True)
    connect = {"timeout": _WAIT_SECONDS, "factory": _Hasty}
    return optuna.storages.RDBStorage(
        f"sqlite:///{file}", engine_kwargs={"connect_args": connect}, skip_compatibility_check=True
    )


def _with_attributes(trial: Any, attributes: dict[str, Any]) -> Any:
    from optuna.trial import create_trial

    return create_trial(
        state=trial.state,
        value=trial.value,
        params=trial.params,
        distributions=trial.distributions,
        intermediate_values=trial.intermediate_values,
        user_attrs={**trial.user_attrs, **attributes},
        system_attrs=trial.system_attrs,
    )
