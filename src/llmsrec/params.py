"""params.yaml as frozen, typed sections; a wrong key or value is one clear error.

Each section names the paper's value in `README.md`'s table of defaults. Sections are pydantic models, so that types,
ranges and choices are declared once, here.
"""

import difflib
import re
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from llmsrec import yaml_file
from llmsrec.errors import ParamsError, in_words

PROMOTED = ("staging", "previous", "champion")  # aliases that no stage moves
Tower = Literal["llm", "cf", "teacher", "blend"]
TOWERS: tuple[str, ...] = get_args(Tower)
Items = Literal["id", "text", "sum", "null_space"]
Against = Literal[
    "sasrec", "best", "gru4rec", "bert4rec", "nextitnet", "ctrl", "recformer", "tallrec", "llara", "collm", "a_llmrec"
]
FRESH = ("scratch", "heads")  # values of train.start that begin from no version
Seed = Field(ge=0, lt=2**32)


class Section(BaseModel):
    """A frozen section: unknown keys are errors, numbers are finite, and a string is never taken for a number."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Where(Section):
    """Where raw data come from."""

    source: Literal["sample", "hub", "files"]
    category: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$", max_length=100)
    dir: str = Field(min_length=1)
    revision: str = Field(pattern=r"^[0-9a-f]{40}$")


class Data(Where):
    core: int = Field(ge=3)
    repeats: Literal["first", "keep"]
    user_fraction: float = Field(gt=0, le=1)
    cold_fraction: float = Field(ge=0, lt=1)
    seed: int = Seed


class Sample(Section):
    users: int = Field(ge=50)
    items: int = Field(ge=150)
    seed: int = Seed


class AtLeast(Section):
    """Limits of a share, of which there should be much; None: none."""

    warn: float | None = Field(ge=0, le=1)
    fail: float | None = Field(ge=0, le=1)

    @model_validator(mode="after")
    def warns_first(self) -> "AtLeast":
        if self.warn is not None and self.fail is not None and self.warn < self.fail:
            raise ValueError(f"warn {self.warn} is below fail {self.fail}, so it would never be said; exchange them")
        return self


class AtMost(Section):
    """Limits of a share (or of days) of which there should be little; None: none."""

    warn: float | None = Field(ge=0)
    fail: float | None = Field(ge=0)

    @model_validator(mode="after")
    def warns_first(self) -> "AtMost":
        if self.warn is not None and self.fail is not None and self.warn > self.fail:
            raise ValueError(f"warn {self.warn} is above fail {self.fail}, so it would never be said; exchange them")
        return self


class Old(AtMost):
    years: float = Field(gt=0)


class Checks(Section):
    titles: AtLeast
    duplicate_titles: AtMost
    repeats: AtMost
    lost_events: AtMost
    lost_users: AtMost
    future: AtMost
    old: Old
    age: AtMost


class TimeShares(Section):
    valid: float = Field(gt=0, lt=1)
    test: float = Field(gt=0, lt=1)

    @model_validator(mode="after")
    def something_is_left(self) -> "TimeShares":
        if self.valid + self.test >= 1:
            raise ValueError(f"valid {self.valid} and test {self.test} leave no event to train on; lower one")
        return self


class Split(Section):
    by: Literal["last", "time"]
    time: TimeShares
    negatives: int = Field(ge=1)
    shuffle_train: bool
    seed: int = Seed


class Embedded(Section):
    vocab_size: int = Field(ge=300)
    hidden_size: int = Field(ge=8)
    layers: int = Field(ge=1)
    heads: int = Field(ge=1)
    steps: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    lr: float = Field(gt=0)
    seed: int = Seed

    @model_validator(mode="after")
    def heads_divide_width(self) -> "Embedded":
        if self.hidden_size % (2 * self.heads):
            raise ValueError(f"hidden_size {self.hidden_size} must be an even multiple of heads {self.heads}")
        return self


class Prefixes(Section):
    memory: float = Field(ge=0)
    disk: float = Field(ge=0)


class Backbone(Section):
    model: str = Field(min_length=1)
    revision: str | None = Field(pattern=r"^[0-9a-f]{40}$")
    dtype: Literal["float32", "bfloat16", "float16"]
    quantization: Literal["none", "8bit", "4bit"]
    lora_rank: int = Field(ge=0)
    gradient_checkpointing: bool
    compile: bool
    prefixes: Prefixes
    embedded: Embedded


class NextItem(Section):
    """How a system that knows items by their ids is trained; a class below this one adds the system's shape."""

    system: ClassVar[str]
    max_length: int = Field(ge=1)
    samples: Literal["sequences", "prefixes"]
    loss: Literal["bce", "ce", "sampled_softmax", "gbce"]
    label_smoothing: float = Field(ge=0, lt=1)
    negatives: int = Field(ge=1)
    gbce_t: float = Field(ge=0, le=1)
    batch_size: int = Field(ge=1)
    lr: float = Field(gt=0)
    schedule: Literal["constant", "linear"]
    epochs: int = Field(ge=1)
    patience: int = Field(ge=1)
    seed: int = Seed

    def shape(self) -> dict[str, Any]:
        """The arguments that build the system's model."""
        return self.model_dump(exclude=Cloze.model_fields.keys() - {"max_length"} | {"items"})


class Cloze(NextItem):
    """Trained on masked items, to be asked for the one behind the last."""

    mask_share: float = Field(gt=0, lt=1)
    last_share: float = Field(ge=0, le=1)


def heads_divide_dim(section: Any) -> Any:
    """A validator of sections with attention."""
    if section.dim % section.heads:
        raise ValueError(f"dim {section.dim} must be a multiple of heads {section.heads}")
    return section


class SASRec(NextItem):
    system = "sasrec"
    items: Items
    dim: int = Field(ge=1)
    blocks: int = Field(ge=1)
    heads: int = Field(ge=1)
    dropout: float = Field(ge=0, lt=1)
    norm: Literal["pre", "post"]
    feed_forward: int = Field(ge=1)
    activation: Literal["relu", "gelu"]
    low_pass: float = Field(ge=0, lt=1)

    _heads = model_validator(mode="after")(heads_divide_dim)

    @model_validator(mode="after")
    def low_pass_has_its_place(self) -> "SASRec":
        if self.low_pass and (self.norm, self.samples) != ("post", "prefixes"):
            raise ValueError(
                f"low_pass {self.low_pass} mixes all positions of a post-norm block, so that only a sample's last may "
                "be trained; set norm to post and samples to prefixes, or low_pass to 0"
            )
        return self


class Weights(Section):
    retrieval: float = Field(ge=0)
    cf_retrieval: float = Field(ge=0)
    distill: float = Field(ge=0)
    uniform: float = Field(ge=0)


class Model(Section):
    teacher: Literal["sasrec", "gru4rec", "bert4rec", "nextitnet", "ctrl"]
    d_prime: int = Field(ge=1)
    distill: bool
    uniform: bool
    distill_loss: Literal["mse", "contrastive"]
    distill_normalize: bool
    weights: Weights
    history: int = Field(ge=1)
    candidates: int = Field(ge=2)
    negatives: Literal["own", "shared", "in_batch", "all"]
    user_representation: bool
    date_format: Literal["YYYY/MM/DD", "YYYY-MM-DD"]
    head_hidden: int = Field(ge=1)
    title_tokens: int = Field(ge=1)
    max_tokens: int = Field(ge=1)


class Train(Section):
    start: str
    targets: Literal["last", "all"]
    batch_size: int = Field(ge=2)
    lr: float = Field(gt=0)
    lr_decay: float = Field(gt=0, le=1)
    beta2: float = Field(gt=0, lt=1)
    weight_decay: float = Field(ge=0)
    input_lr: float = Field(gt=0, le=1)
    epochs: int = Field(ge=1)
    evaluations_per_epoch: int = Field(ge=1)
    patience: int = Field(ge=1)
    monitor: Literal["uni99/ndcg_10", "uni99/hr_10", "full/ndcg_10", "full/hr_10"]
    seed: int = Seed

    @field_validator("start")
    @classmethod
    def start_is_a_version(cls, value: str) -> str:
        if value not in FRESH and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[1-9]\d*|@[^/@\s]+)", value):
            raise ValueError(f"{value!r} is neither {' nor '.join(FRESH)} nor a registered version such as llm-srec/3")
        return value


class Evaluate(Section):
    validation_users: int = Field(ge=1)
    test_users: int = Field(ge=1)
    bootstrap: int = Field(ge=100)
    seed: int = Seed


class Export(Section):
    tolerance: float = Field(gt=0)
    users: int = Field(ge=1)
    index_above: int = Field(ge=0)


class Latency(Section):
    cf: float = Field(gt=0)
    teacher: float = Field(gt=0)
    llm: float = Field(gt=0)
    blend: float = Field(gt=0)


class Gate(Section):
    margin: float = Field(ge=0, lt=1)
    slice_margin: float = Field(ge=0, lt=1)
    require_better: bool
    against: Against
    towers: list[Tower] = Field(min_length=1)
    requests: int = Field(ge=10)
    latency_ms: Latency
    memory_mb: float = Field(gt=0)
    recall: float = Field(ge=0, le=1)


class AfterPromotion(Section):
    url: str | None = Field(pattern=r"^https?://[^/\s]+\S*$")
    command: str | None = Field(min_length=1)


class Registry(Section):
    model: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    experiment: str = Field(min_length=1)
    alias: str = Field(pattern=r"^[a-z][a-z0-9_-]*$")
    nominate: Literal["auto", "always", "never"]
    after_promotion: AfterPromotion
    gate: Gate

    @field_validator("alias")
    @classmethod
    def alias_is_free(cls, value: str) -> str:
        if value == "latest" or re.fullmatch(r"v\d+", value):
            raise ValueError(f"alias {value} is reserved by MLflow; take a word such as candidate")
        if value in PROMOTED:
            raise ValueError(f"alias {value} is moved by `llmsrec promote` alone; take a word such as candidate")
        return value


class Dimension(Section):
    """A key of params.yaml that is tuned: its `choices`, or all numbers from `low` to `high`."""

    key: str = Field(min_length=1)
    choices: list[bool | int | float | str] | None = Field(default=None, min_length=2)
    low: int | float | None = None
    high: int | float | None = None
    log: bool = False

    @model_validator(mode="after")
    def choices_or_range(self) -> "Dimension":
        ranged = self.low is not None and self.high is not None
        if (self.choices is None) != ranged or (self.choices is not None and self.model_fields_set & {"low", "high"}):
            raise ValueError(f"{self.key} needs either `choices`, or `low` and `high`")
        if self.low is not None and self.high is not None and self.low >= self.high:
            raise ValueError(f"{self.key} has low {self.low}, which is not below high {self.high}")
        if self.log and (self.low is None or self.low <= 0):
            raise ValueError(f"{self.key} is searched by its logarithm, so `low` must be above 0")
        return self

    @model_serializer(mode="wrap")
    def as_written(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: value for key, value in dump(self).items() if key in self.model_fields_set}


class Tune(Section):
    fidelity: Literal["heads", "full"]
    study: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    storage: str | None
    trials: int = Field(ge=1)
    heartbeat: int = Field(ge=1)
    seed: int = Seed
    space: list[Dimension] = Field(min_length=1)


class Cross(Where):
    sample_seed: int = Seed


class Drift(Section):
    false_alarms: float = Field(gt=0, lt=1)
    popularity: float = Field(ge=0)
    unknown: float = Field(ge=0, le=1)
    length: float = Field(ge=0, le=1)
    entropy: float = Field(ge=0, le=1)
    overlap: float = Field(ge=0, le=1)


class Params(Section):
    data: Data
    sample: Sample
    split: Split
    checks: Checks
    backbone: Backbone
    sasrec: SASRec
    model: Model
    train: Train
    evaluate: Evaluate
    export: Export
    registry: Registry
    cross: Cross
    drift: Drift
    tune: Tune


def load(path: Path) -> Params:
    """Read and check the whole file.

    Raises:
        ParamsError: not there, not YAML, an unknown key (the nearest valid one is named), a wrong type or value.
    """
    return parse(yaml_file.read(path), str(path))


def parse(values: Any, where: str = "params.yaml") -> Params:
    """Check plain values (as YAML gives them) and return them typed; see `load`."""
    if not isinstance(values, dict):
        raise ParamsError(f"{where} holds {type(values).__name__}, not sections; restore it with git.")
    try:
        return Params.model_validate(values)
    except ValidationError as error:
        problems = error.errors()
        # A mistyped key is missing, too; that is said once.
        meant = {_nearest(problem) for problem in problems if problem["type"] == "extra_forbidden"}
        lines = [_explain(p) for p in problems if p["type"] != "missing" or _name(p) not in meant]
        raise ParamsError(f"{where}: " + "\n".join(lines)) from error


def _explain(problem: Any) -> str:
    """One line for one of pydantic's problems: the key, the value, the reason, the remedy."""
    name = _name(problem)
    if problem["type"] == "extra_forbidden":
        return f"unknown key `{name}`; the nearest valid key is `{_nearest(problem)}`."
    if problem["type"] == "missing":
        return f"`{name}` is missing; restore it with `git diff params.yaml`."
    if problem["type"] == "value_error":
        return f"`{name}`: {in_words(problem)}."
    value = repr(problem["input"])
    return f"`{name}` is {value if len(value) <= 200 else f'{value[:197]}...'}: {in_words(problem)}."


def _name(problem: Any) -> str:
    return ".".join(str(part) for part in problem["loc"])


def _nearest(problem: Any) -> str:
    *parents, key = [str(part) for part in problem["loc"]]
    return ".".join([*parents, *difflib.get_close_matches(key, keys(parents), n=1, cutoff=0.0)])


def keys(parents: list[str]) -> list[str]:
    """The valid keys below a path of section names, e.g. `["model", "weights"]`."""
    section: type[BaseModel] = Params
    for parent in parents:
        annotation = section.model_fields[parent].annotation
        candidates = [annotation, *get_args(annotation)]
        section = next(c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel))
    return list(section.model_fields)
