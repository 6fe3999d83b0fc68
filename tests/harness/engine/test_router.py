"""Which trial comes next. No Ray, no training: trials end in whatever order the test likes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.engine.router import Router
from harness.plan.prepared import PreparedTask
from harness.records import EpochRecord, ErrorRecord, TrialRecord, TrialSpec
from harness.store.store import Store
from harness.study.schema import Study
from harness.training.failures import classify
from harness.watching import Watcher
from harness.watching.console import Console
from tests.harness.engine.stand_in import stand_in_plan, stand_in_study

THREE_CELLS = stand_in_study(["a", "b", "c"], search={"trials": 5})


class MemoryStore(Store):
    """A store that nobody needs to clean up."""

    def __init__(self, held: dict[str, TrialRecord] | None = None) -> None:
        super().__init__(Path("unused"))
        self.held = {} if held is None else held

    def get(self, key: str) -> TrialRecord | None:
        return self.held.get(key)

    def write(self, record: TrialRecord, predictions: object) -> None:
        self.held[record.key] = record


def router_for(study: Study, store: Store, console: Console | None = None, **missing: ErrorRecord) -> Router:
    plan, prepared = stand_in_plan(study)
    if missing:
        prepared = {name: PreparedTask(**{**vars(task), "teacher_errors": missing}) for name, task in prepared.items()}
    return Router(plan, plan.cells, prepared, store, console or Console(quiet=True))


def good(spec: TrialSpec) -> TrialRecord:
    return TrialRecord(key=spec.key, status="ok", spec=spec, objective=1 / (1 + abs(spec.training.temperature - 4)))


def run(router: Router, choose: Callable[[int], int], slots: int, stop_after: int | None = None) -> list[TrialSpec]:
    """All trials in the order in which they started. `choose(n)`: which of n running trials ends next."""
    started: list[TrialSpec] = []
    running: list[TrialSpec] = []
    while not router.finished and (stop_after is None or len(started) - len(running) < stop_after):
        while len(running) < slots and (spec := router.next()) is not None:
            started.append(spec)
            running.append(spec)
        if running:
            router.finish(good(running.pop(choose(len(running)))), None)
    return started


def by_cell(specs: list[TrialSpec]) -> dict[str, list[str]]:
    return {label: [spec.key for spec in specs if spec.label == label] for label in ("a", "b", "c")}


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data(), st.integers(1, 6), st.integers(1, 3), st.integers(0, 24))
def test_searches_do_not_depend_on_timing_slots_or_interruption(
    data: Any, slots: int, parallel: int, interrupted_after: int
) -> None:
    study = stand_in_study(["a", "b", "c"], search={"trials": 8, "parallel": parallel})  # the sampler's model from 5 on
    in_order = run(router_for(study, MemoryStore()), lambda n: 0, slots=1)
    assert len(in_order) == 24
    store = MemoryStore()

    def choose(n: int) -> int:
        return int(data.draw(st.integers(0, n - 1)))

    run(router_for(study, store), choose, slots, stop_after=interrupted_after)
    before = set(store.held)
    rest = run(router_for(study, store), choose, slots)
    assert set(store.held) == {spec.key for spec in in_order}
    assert before.isdisjoint(spec.key for spec in rest)  # nothing finished is run again
    assert len(before) + len(rest) == 24
    for label, keys in by_cell(in_order).items():
        assert [key for key in keys if key not in before] == by_cell(rest)[label]


def test_what_the_store_holds_is_counted_before_anything_runs() -> None:
    store, console = MemoryStore(), Console(quiet=True)
    run(router_for(THREE_CELLS, store), lambda n: 0, slots=2, stop_after=8)
    router_for(THREE_CELLS, store, console=console)
    assert console.progress.from_store == len(store.held) >= 8


def test_one_trial_of_a_cell_runs_at_a_time_and_cells_take_turns() -> None:
    router = router_for(THREE_CELLS, MemoryStore())
    first = [router.next() for _ in range(4)]
    assert [spec and spec.label for spec in first] == ["a", "b", "c", None]
    assert first[1] is not None
    router.finish(good(first[1]), None)
    following = router.next()
    assert following is not None
    assert (following.label, following.index) == ("b", 1)
    assert not router.finished


def test_as_many_trials_of_a_cell_run_at_once_as_the_study_says() -> None:
    router = router_for(stand_in_study(["a"], search={"trials": 5, "parallel": 3}), MemoryStore())
    assert [spec and spec.index for spec in (router.next() for _ in range(4))] == [0, 1, 2, None]


def test_a_failed_trial_is_run_again_once_in_a_routers_life() -> None:
    study = stand_in_study(["a"], search={"trials": 2})
    store = MemoryStore()
    for _ in range(2):
        router = router_for(study, store)
        indices = []
        while (spec := router.next()) is not None:
            indices.append(spec.index)
            router.fail(spec, classify(KeyError("a bug")))
        assert indices == [0, 1]
        assert router.finished
    assert {record.status for record in store.held.values()} == {"failed"}


def test_a_missing_teacher_fails_its_trials_without_running_them() -> None:
    error = ErrorRecord(kind="teacher", type="OSError", message="no such model")
    store = MemoryStore()
    router = router_for(THREE_CELLS, store, teacher=error)
    assert router.next() is None
    assert router.finished
    assert {record.error and record.error.kind for record in store.held.values()} == {"teacher"}
    assert len(store.held) == 15


def test_final_runs_wait_for_the_whole_search() -> None:
    study = stand_in_study(["a"], search={"trials": 3, "repeats": 2, "repeat": "winner", "parallel": 2})
    router = router_for(study, MemoryStore())
    searched = [spec for spec in (router.next(), router.next()) if spec is not None]
    router.finish(good(searched[0]), None)
    last = router.next()
    assert last is not None
    router.finish(good(last), None)
    assert router.next() is None  # one is still being searched
    router.finish(good(searched[1]), None)
    final = [spec for spec in (router.next(), router.next()) if spec is not None]
    assert [(spec.purpose, spec.repeat) for spec in final] == [("final", 0), ("final", 1)]
    for spec in final:
        router.finish(good(spec), None)
    assert router.next() is None
    assert router.finished


def test_trials_for_one_process_share_resources_and_may_share_passes() -> None:
    content = stand_in_study(["a", "b", "c", "d"], search={"trials": 1}).model_dump(exclude_unset=True)
    content |= {"tasks": ["sst2", "qnli"], "strategies": [*content["strategies"], {"name": "rw_kd"}]}
    content["resources"] |= {"per_task": {"qnli": {"cpus_per_worker": 2}}}
    router = router_for(Study.model_validate(content), MemoryStore())
    together = []
    while specs := router.next_together(3):
        together.append({(spec.task.name, spec.label) for spec in specs})
    assert together == [
        {("sst2", "a"), ("sst2", "b"), ("sst2", "c")},
        {("sst2", "d")},
        {("sst2", "rw_kd")},
        {("qnli", "a"), ("qnli", "b"), ("qnli", "c")},
        {("qnli", "d")},
        {("qnli", "rw_kd")},
    ]


def test_a_trial_that_has_lost_a_process_gets_the_next_one_for_itself() -> None:
    router = router_for(stand_in_study(["a", "b", "c"], search={"trials": 1}), MemoryStore())
    first, second = router.next_together(2)
    router.put_back(second.key, 0)
    assert router.next_together(2) == [second]
    assert [spec.label for spec in router.next_together(2)] == ["c"]
    assert router.next_together(2) == []
    assert first.label == "a"


def test_an_epoch_whose_report_was_lost_is_told_with_the_record_and_none_twice() -> None:
    told: list[int] = []

    class Listening(Watcher):
        def epoch(self, spec: TrialSpec, record: EpochRecord) -> None:
            told.append(record.epoch)

    plan, prepared = stand_in_plan(stand_in_study(["a"], search={"trials": 1}))
    router = Router(plan, plan.cells, prepared, MemoryStore(), Console(quiet=True), watcher=Listening())
    spec = router.next()
    assert spec is not None
    nothing: dict[str, Any] = {"train_loss": 0.0, "terms": {}, "select": {"accuracy": 0.5}, "weights": {}, "seconds": 0.0}
    epochs = [EpochRecord(epoch=epoch, **nothing) for epoch in range(5)]
    for epoch in (1, 2, 4):  # the first one was reported to an earlier run
        router.epoch(spec.key, epochs[epoch])
    router.finish(good(spec).model_copy(update={"epochs": epochs}), None)
    assert told == [1, 2, 4, 3]
