"""Optuna's view of a study in a file of its own, for optuna-dashboard: one Optuna study per cell.

A copy: searches live in memory and are rebuilt from the store, so nothing is read back from here, and every run starts it anew.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from harness.records import TrialSpec
from harness.watching import Watcher

_WAIT_SECONDS = 30
"""For a reader that holds the file."""


class OptunaStorage(Watcher):
    """A trial takes some 3 ms, however many there are. A file that cannot be written ends the copy, not the study."""

    def __init__(self, file: Path) -> None:
        """Replaces `file` (SQLite), which appears with the first trial."""
        self._file = file
        self._storage: Any = None
        self._studies: dict[str, Any] = {}
        self._broken = False
        try:
            for name in (file.name, f"{file.name}-journal"):
                file.with_name(name).unlink(missing_ok=True)
        except OSError as error:  # a folder, or another's file
            self._give_up(error)

    def told(self, cell_id: str, spec: TrialSpec, trial: Any) -> None:
        """User attributes name the trial: `key`, and `index`, its number in the cell."""
        from optuna.exceptions import StorageInternalError
        from sqlalchemy.exc import SQLAlchemyError

        if self._broken:
            return
        try:
            self._study(cell_id).add_trial(_with_attributes(trial, {"key": spec.key, "index": spec.index}))
        except (SQLAlchemyError, StorageInternalError, OSError) as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self._broken = True
        logging.getLogger("harness").warning("%s is not kept any further: %s", self._file, error)

    def close(self) -> None:
        if self._storage is not None:
            self._storage.remove_session()
            self._storage.engine.dispose()
            self._storage = None

    def _study(self, cell_id: str) -> Any:
        import optuna

        if self._storage is None:
            self._storage = _open(self._file)
        if cell_id not in self._studies:
            self._studies[cell_id] = optuna.create_study(storage=self._storage, study_name=cell_id, direction="maximize")
        return self._studies[cell_id]


def _open(file: Path) -> Any:
    import optuna
    from sqlalchemy import event

    file.parent.mkdir(parents=True, exist_ok=True)
    storage = optuna.storages.RDBStorage(f"sqlite:///{file}", engine_kwargs={"connect_args": {"timeout": _WAIT_SECONDS}})

    def connected(connection: Any, _: Any) -> None:
        connection.execute("PRAGMA synchronous=OFF")  # halves the time; a power cut costs nothing but a copy

    event.listen(storage.engine, "connect", connected)
    storage.engine.dispose()  # the connection that made the tables has not heard of it
    return storage


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
