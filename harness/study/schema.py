"""The schema of a study file. Reading one from YAML, with errors that name file and line, is `harness.study.file`'s.

Every model forbids unknown keys. The string under a field documents it (`python -m harness list study`).
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from harness.study.comparisons import ProtocolSpec
from harness.study.data import DataSpec
from harness.study.resources import ResourcesSpec
from harness.study.section import Section
from harness.study.tasks import TaskSpec
from harness.study.teacher_origin import ORIGINS, check_config, check_origin
from strategies.space import Range

PROTOCOL_VERSION = "1.1"


class ModelSpec(Section):
    first_fields = frozenset({"model", "revision", "config", "layers", "dropout", "tokenizer"})

    model: str | None = None
    """Hub name, local directory, or `package:NAME/SUBDIR` for weights that an installed Python package ships."""
    revision: str | None = None
    config: dict[str, Any] | None = None
    """Instead of `model`: a transformers configuration (with `model_type`), built with random weights."""
    layers: list[int] | None = None
    """Keep these encoder layers (counted from 0), in this order."""
    dropout: float | None = Field(None, ge=0.0, lt=1.0)
    """Set every dropout probability; the model's own where not given."""
    tokenizer: str | None = None
    """As `model`, or `words`: a word-level tokenizer made from the task's training text. Default: the model's own, or `words`
    for a model from a config."""
    pooling: Literal["own", "mean"] = "own"
    """What the classifier reads. own: what the family's does, e.g. the first token, or a causal model's last. mean: the mean
    over the tokens' last hidden states, for checkpoints that were trained with it."""

    @model_validator(mode="after")
    def _one_origin(self) -> ModelSpec:
        if (self.model is None) == (self.config is None):
            raise ValueError("give either `model` or `config`")
        check_config(self.config)
        return self


class Recipe(Section):
    """How a model is trained."""

    first_fields = frozenset(
        {"epochs", "batch_size", "learning_rate", "weight_decay", "warmup_fraction", "clip_norm", "precision", "keep"}
    )

    epochs: int = Field(3, ge=1)
    batch_size: int = Field(32, ge=1)
    """The global batch, over all workers."""
    learning_rate: float = Field(5e-5, gt=0.0)
    weight_decay: float = Field(0.01, ge=0.0)
    warmup_fraction: float = Field(0.1, ge=0.0, lt=1.0)
    clip_norm: float = Field(1.0, gt=0.0)
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """auto: bf16 autocast on GPUs that have it, else fp32."""
    keep: Literal["best", "last"] = "best"
    """Which epoch's parameters count: the best on `select`, or the last."""


class TrainingSpec(Recipe):
    first_fields = Recipe.first_fields | {"temperature", "meta_batch_size"}

    temperature: float = Field(2.0, gt=0.0)
    """Softens both distributions in the KD terms, which carry the factor T^2."""
    meta_batch_size: int = Field(32, ge=1)
    compile: Literal["none", "graphs"] = "none"
    """graphs: a student's pass on a GPU as CUDA graphs, for students so small that they wait for launches. Batches are padded
    to widths that are multiples of 16, so that other dropout masks are drawn than without. Strategies that look ahead or need
    hidden states or gradients of their terms train without, as do trials on a CPU or of several workers, with a note."""


class TeacherSpec(ModelSpec):
    """A model that is fine-tuned here, or, with `fine_tuned` or `outputs`, a teacher that was trained elsewhere."""

    first_fields = ModelSpec.first_fields | {"name", "training", "training_per_task", "seed"}

    name: str = Field("teacher", pattern=r"^[A-Za-z][A-Za-z0-9_.-]*$")
    training: Recipe = Recipe()
    training_per_task: dict[str, dict[str, Any]] = {}
    """Fields of the teacher's `training` that differ for a task, e.g. `rte: {epochs: 10}`."""
    seed: int = 0
    fine_tuned: dict[str, str] | None = Field(None, min_length=1)
    """Instead of `model`: task -> hub name or directory of a classifier that is fine-tuned on it and is used as it is. Its
    outputs are matched with the task's classes by their names; of `training`, `precision` alone counts."""
    outputs: dict[str, dict[str, str]] | None = Field(None, min_length=1)
    """Instead of `model`: task -> {train: FILE, validation: FILE, ...}, outputs that were computed elsewhere, .parquet or .npy
    (relative paths start from the study file). Report splits may be left out: the teacher has no score there then."""
    output_kind: Literal["logits", "probabilities"] = "logits"
    """What the files of `outputs` hold."""
    labels: dict[str, list[str]] = {}
    """Task -> its classes in the order of the checkpoint's outputs, where it calls them LABEL_0 and so on, or of an .npy file's
    columns."""
    reference: bool = True
    """false: no score is normalised by this teacher's, e.g. because it may have seen the report rows."""

    @property
    def trained_elsewhere(self) -> bool:
        return self.fine_tuned is not None or self.outputs is not None

    def for_task(self, task: str) -> TeacherSpec:
        """With the task's own training, checkpoint, files and labels, and no other's."""
        training = Recipe.model_validate({**self.training.model_dump(), **self.training_per_task.get(task, {})})
        own: dict[str, Any] = {"training": training, "training_per_task": {}}
        for name in ("fine_tuned", "outputs", "labels"):
            if given := getattr(self, name):
                own[name] = {key: value for key, value in given.items() if key == task}
        return self.model_copy(update=own)

    def checkpoint(self, task: str) -> ModelSpec:
        """The model that is loaded or made for a task; not for a teacher of stored outputs."""
        if self.fine_tuned is None:
            return self
        return ModelSpec(model=self.fine_tuned[task], revision=self.revision, tokenizer=self.tokenizer, pooling=self.pooling)

    @model_validator(mode="after")
    def _one_origin(self) -> TeacherSpec:
        check_origin(self)
        return self


class ModelsSpec(Section):
    student: ModelSpec
    teachers: list[TeacherSpec] = Field(min_length=1)
    """An entry may say `architecture: student` in the place of `model` or `config`: one that starts as the student does."""

    @model_validator(mode="before")
    @classmethod
    def _like_the_student(cls, value: Any) -> Any:
        if not isinstance(value, dict) or not isinstance(value.get("teachers"), list):
            return value
        return {**value, "teachers": [_as_student(teacher, value.get("student")) for teacher in value["teachers"]]}

    @model_validator(mode="after")
    def _names(self) -> ModelsSpec:
        names = [teacher.name for teacher in self.teachers]
        if len(set(names)) != len(names):
            raise ValueError(f"two teachers share a name: {names}")
        return self


def _as_student(teacher: Any, student: Any) -> Any:
    """A teacher's entry with `architecture: student` written out; another one as it is."""
    if not isinstance(teacher, dict) or "architecture" not in teacher:
        return teacher
    own = {name: value for name, value in teacher.items() if name != "architecture"}
    if teacher["architecture"] != "student" or {*ORIGINS, "layers"} & set(own):
        raise ValueError(
            "a teacher's `architecture` can only be `student`, without `layers` and an origin of its own (`model`, ...)"
        )
    found = student.model_dump(exclude_defaults=True) if isinstance(student, ModelSpec) else student
    return {**found, **own} if isinstance(found, dict) else own


class StrategyEntry(Section):
    """A strategy in a study. A bare string stands for `name`."""

    name: str
    """A registered strategy, or a wrapper around one: `shuffled(rw_kd)`."""
    label: str | None = None
    """How tables call it; needed where one strategy appears twice."""
    settings: dict[str, Any] = {}
    search: dict[str, Range] | None = None
    """Ranges for its own settings; the strategy's default space where not given; `{}` for none."""
    teachers: list[str] | None = None
    """Use only these teachers, by name."""

    @model_validator(mode="before")
    @classmethod
    def _bare(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @property
    def shown(self) -> str:
        return self.label or self.name


class EarlyStopping(Section):
    """Trials that fall behind the others of their own search end early. Searches never see one another."""

    kind: Literal["asha", "median"]
    """asha: at grace_epochs, grace_epochs * reduction_factor, ... only the best 1 / reduction_factor go on. median: a trial
    stops when its best epoch so far is below the median of the search's other trials at that epoch. Trial 0 never stops."""
    grace_epochs: int = Field(1, ge=1)
    """No trial stops before the end of so many epochs, nor within the warm-up of the learning rate or of any strategy."""
    reduction_factor: int = Field(3, ge=2)
    """asha alone."""
    startup_trials: int = Field(4, ge=1)
    """median alone: nothing stops until so many trials have trained to their end."""


class SearchSpec(Section):
    sampler: Literal["tpe", "random", "grid"] = "tpe"
    trials: int = Field(1, ge=1)
    """Per cell, the same for every strategy. Trial 0 is always the default; 1 means: defaults only."""
    parallel: int = Field(1, ge=1)
    """Trials of a cell that may run at once, for studies with fewer cells than slots. The suggestion after n trials knows the
    results of all but the last `parallel` - 1 of them, in their order, whichever end first and however many slots there are;
    with early stopping, which of them stop does depend on that."""
    space: dict[str, Range] = {}
    """Shared ranges for `training` fields, e.g. learning_rate, temperature."""
    early_stopping: EarlyStopping | None = None
    """Off for leaderboards; the tables of a study with it say so."""
    repeats: int = Field(3, ge=1)
    repeat: Literal["search", "winner"] = "search"
    """search: every repeat is a search of its own (the leaderboard's rule). winner: one search, then its best configuration
    with `repeats` seeds (cheaper, and labelled so)."""


class Study(Section):
    """One YAML file: tasks x strategies, models, data, training, search, resources, protocol."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    description: str = ""
    tasks: list[str | TaskSpec] = Field(min_length=1)
    strategies: list[StrategyEntry] = Field(min_length=1)
    plugins: list[str] = []
    """Python files that register strategies; relative paths start from the study file."""
    data: DataSpec = DataSpec()
    data_per_task: dict[str, dict[str, Any]] = {}
    """Fields of `data` that differ for a task, e.g. `cola: {train_rows: 4000}`."""
    models: ModelsSpec
    training: TrainingSpec = TrainingSpec()
    training_per_task: dict[str, dict[str, Any]] = {}
    """Fields of `training` that differ for a task, e.g. `rte: {epochs: 6}`."""
    search: SearchSpec = SearchSpec()
    resources: ResourcesSpec = ResourcesSpec()
    protocol: ProtocolSpec = ProtocolSpec()
    seed: int = 0
    """With task, repeat and purpose, the root of the trials' seeds. The strategy is no part of them: strategies are paired."""
    results: str = "results"
    """The store is `<results>/<name>`."""
    keep_checkpoints: bool = False
    """Write one after every epoch, and leave a trial's last in `<store>/running/<key>`; otherwise it goes with the trial."""
    keep_students: Literal["chosen"] | None = None
    """chosen: leave each cell's chosen student (of every repeat) in `<store>/students/<key>`, from where `harness export` takes
    it; otherwise `export` trains it again."""
    tensorboard: bool = False
    """Write loss, terms, selection scores and mean weights of every epoch for TensorBoard, into `<store>/tensorboard`."""
    watch: list[Literal["wandb", "mlflow", "trackio"]] = []
    """Write the same, the settings and the scores for these trackers, a run a trial, grouped by cell. Each is an extra of this
    package (`pip install -e ".[mlflow]"`) and goes where its own settings say (MLFLOW_TRACKING_URI, TRACKIO_DIR, ...)."""

    def data_for(self, task: str) -> DataSpec:
        """`data` with the task's own fields in place. Raises pydantic's ValidationError for fields that are not valid."""
        own = dict(self.data_per_task.get(task, {}))
        if isinstance(own.get("generated"), dict):
            own["generated"] = {**self.data.generated.model_dump(), **own["generated"]}
        return DataSpec.model_validate({**self.data.model_dump(), **own})
