"""What is known of one trial: before it (`TrialSpec`), and after it (`TrialRecord`). No torch, no Ray."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from harness.digest import digest
from harness.study.data import DataSpec
from harness.study.resources import TaskResources
from harness.study.schema import EarlyStopping, ModelSpec, TeacherSpec, TrainingSpec
from harness.study.section import Section
from harness.study.tasks import TaskSpec

SCHEMA_VERSION = 2


class Seeds(Section):
    """One seed per purpose. None depends on the strategy."""

    student: int
    """Initial parameters of the student's new layers."""
    order: int
    """Order and make-up of the batches."""
    dropout: int
    strategy: int
    """The strategy's own parameters and draws."""


class TrialSpec(Section):
    """Everything that determines a trial's result, as plain data; small enough to travel to any worker."""

    study: str
    task: TaskSpec
    strategy: str
    """Registered name, wrappers included."""
    label: str
    """Name in tables."""
    settings: dict[str, Any]
    """The strategy's own hyper-parameters, complete."""
    repeat: int
    index: int
    """Trial number within its cell; 0 is the default."""
    purpose: Literal["search", "final"] = "search"
    data: DataSpec
    student: ModelSpec
    teachers: list[TeacherSpec]
    training: TrainingSpec
    seeds: Seeds
    label_budget: Literal["equal_labels", "equal_fit"]
    protocol_version: str
    resources: TaskResources
    plugins: list[str] = []
    """Absolute paths."""
    strategy_code: str
    harness_code: str = ""
    """`harness.numeric_code` of the process that planned it; "": made before this was recorded."""
    hub_commits: dict[str, str] = {}
    """Repository and revision -> commit, of what the study takes from the hub (`harness.hub`)."""
    data_digest: str
    """Digest of the task's rows and roles."""
    student_digest: str
    """Digest of where the student comes from: its weights' files or hub revision, or its configuration."""
    teacher_digests: list[str]
    """In the order of `teachers`."""

    @property
    def cell_id(self) -> str:
        return f"{self.task.name}/{self.label}/{self.repeat}"

    @property
    def key(self) -> str:
        """Identity. Paths do not count, nor does the harness's code: a study is not made anew by every change of it, and what
        was made by another form of it is found by `harness.plan.other_code`.

        The number of workers counts, since each draws dropout of its own for its share of a batch, and sums of gradients round
        otherwise: 1 and 2 workers train different students. One mask over all rows of a batch would mend the first alone.
        """
        content = self.identity()
        for name in ("study", "resources", "plugins", "harness_code", "hub_commits"):
            content.pop(name)
        if self.resources.workers > 1:  # as a field that came later: one worker keeps the keys of before
            content["workers"] = self.resources.workers
        # where rows came from, and what a teacher learned, digests say
        for name in ("path", "hub_name", "teacher_rows", "dataset", "config", "splits"):
            content["data"].pop(name, None)
        for name in ("files", "rows_of"):
            content["task"].pop(name, None)
        for teacher in content["teachers"]:  # their digests say what was in the checkpoint or the files
            for name in ("fine_tuned", "outputs", "reference"):
                teacher.pop(name, None)
        return digest(content)


class Score(BaseModel):
    """Metrics of one split, e.g. {"accuracy": 0.8, "f1": 0.7}, and the number of rows."""

    model_config = ConfigDict(extra="forbid")
    rows: int
    metrics: dict[str, float]


class TermWeights(BaseModel):
    """Distribution of one term's effective weights over an epoch's samples; of a sample's sum over several teachers."""

    model_config = ConfigDict(extra="forbid")
    mean: float
    quantiles: list[float]
    """At 0, 0.1, 0.25, 0.5, 0.75, 0.9, 1."""
    teacher_right: float | None = None
    """Mean over samples that the (mean) teacher classifies correctly; None where there are none."""
    teacher_wrong: float | None = None
    by_row: list[float] | None = None
    """Mean weight of each row of a term that has several: of each teacher of the trial, or part of the input."""
    flipped_auroc: float | None = None
    """AUROC of (minus the weight) as a detector of planted or injected label flips; None without flips."""


class EpochRecord(BaseModel):
    model_config = ConfigDict(extra="forbid")
    epoch: int
    train_loss: float
    terms: dict[str, float]
    """Mean of each unweighted term."""
    select: dict[str, float]
    weights: dict[str, TermWeights]
    seconds: float
    micro_batches: int = 1
    """In so many parts a worker's batch was passed through the student at the end of the epoch: more than 1 where memory ran
    out. The global batch stays the same."""


class CostRecord(BaseModel):
    """Passes are counted in samples: a forward pass of a batch of 32 counts 32."""

    model_config = ConfigDict(extra="forbid")
    student_forward: int = 0
    student_backward: int = 0
    teacher_forward: int = 0
    train_seconds: float = 0.0
    """Optimisation alone: no set-up, no evaluation."""
    total_seconds: float = 0.0
    peak_memory_bytes: int = 0
    """On a GPU the allocator's peak; on a CPU the process's peak resident set."""
    device: str = ""
    precision: str = ""
    look_ahead_engine: str = ""
    """Which one `auto` meant, or was asked for; empty without a look-ahead, and of trials made before this was recorded."""
    graphs: int = 0
    """Shapes of batches that were passed as CUDA graphs (`training.compile`)."""
    stacked: int = 1
    """Trials that shared the process and its passes (`resources.stacked`): seconds and memory are of all of them then."""


class ErrorRecord(BaseModel):
    model_config = ConfigDict(extra="forbid")
    kind: Literal["out_of_memory", "infrastructure", "device", "diverged", "bug", "teacher"]
    type: str
    message: str
    traceback: str = ""


class TrialRecord(BaseModel):
    """One finished trial. Written once, atomically, by the process that started the study."""

    model_config = ConfigDict(extra="forbid")
    schema_version: int = SCHEMA_VERSION
    key: str
    status: Literal["ok", "failed", "stopped"]
    """stopped: early, because others of its search did better; it has no objective and was not scored on the report rows."""
    spec: TrialSpec
    objective: float | None
    """The headline metric on `select` of the epoch that is kept; None where the trial failed or was stopped."""
    best_epoch: int | None = None
    report: dict[str, Score] = {}
    """Report split -> score of the kept epoch's student, read once at the end."""
    majority: dict[str, Score] = {}
    """Report split -> score of the predictor that always says the most frequent fit label: what a failed trial scores."""
    teacher_report: list[dict[str, Score]] = []
    """For each teacher, its own scores."""
    teacher_contents: list[str] = []
    """For each teacher, the digest of its outputs: `spec.teacher_digests` say how they are made, this what came of it."""
    epochs: list[EpochRecord] = []
    cost: CostRecord = Field(default_factory=CostRecord)
    student_parameters: int = 0
    teacher_parameters: list[int] = []
    error: ErrorRecord | None = None
    stopped_after_epoch: int | None = None
    """Counted from 1; of a trial that was stopped early."""
    early_stopping: EarlyStopping | None = None
    """The rule that stopped it."""
    finished_at: str = ""
    """UTC, ISO 8601."""
    environment: dict[str, str] = {}
    """Versions of Python and the packages that determine results, platform, accelerator; no host name."""

    @property
    def teacher_names(self) -> list[str]:
        """Of its teachers, as a store keeps what they said; none where the contents are not known."""
        return [teacher_name(*found) for found in zip(self.spec.teacher_digests, self.teacher_contents, strict=False)]


def teacher_name(digest: str, content: str) -> str:
    """Of a teacher as it came out: digests of its recipe and of its outputs."""
    return f"{digest}-{content}"
