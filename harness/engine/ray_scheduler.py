"""What Tune asks after every result and whenever a process is free: which trials stop early, and which one is next."""

from __future__ import annotations

from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler

from harness.engine.ray_session import RouterSession
from harness.engine.ray_trial import hear_stop
from harness.records import EpochRecord


class RouterScheduler(FIFOScheduler):  # type: ignore[misc]  # ray is untyped
    """Early stopping, as each cell's search decides it (`harness.plan.early_stopping`), in this process.

    The trial ends itself, and tells what it took: one that Tune stops has no more say, and its ranks would be interrupted in
    the middle of a step. Its process hears of it before Tune asks it for the next result (an actor runs what it is sent in
    that order), so that no trial waits for an answer: the next question is one.

    A warm process that has become free gets the newest of the trials that wait, for which none is being started yet. Tune's
    own gives it to the oldest, and ends the process that is being started for that one: while trials are shorter than that
    takes, no further node of the cluster is ever used. It also looks through all trials that there were, and this one through
    those that have not ended.
    """

    def __init__(self, session: RouterSession) -> None:
        super().__init__()
        self._session = session
        self._trials: dict[str, Any] = {}
        """Name -> trial, by age."""

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        session = self._session
        if "epoch_record" in result and (key := session.key_of(trial, result)) is not None:
            with session.guard():
                if session.router.epoch(key, EpochRecord.model_validate_json(result["epoch_record"])):
                    result["actor"].__ray_call__.remote(hear_stop, key)
        return str(self.CONTINUE)

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        self._trials[trial.trial_id] = trial

    def on_trial_complete(self, tune_controller: Any, trial: Any, *result: Any) -> None:
        self._trials.pop(trial.trial_id, None)

    on_trial_error = on_trial_remove = on_trial_complete

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        return next((trial for trial in reversed(self._trials.values()) if trial.status == Trial.PENDING), None)
