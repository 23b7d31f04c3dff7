"""The search space: keys of params.yaml, the values that a trial gives them, and which fidelity can tell them apart."""

from typing import Any

from optuna.trial import Trial

from llmsrec import params as parameters
from llmsrec import presets
from llmsrec.errors import ParamsError
from llmsrec.params import Dimension, Params
from llmsrec.registry.record import flatten

Values = dict[str, Any]

DIGITS = 3  # of a drawn number: what is shown, logged and written is what ran
# What the heads are trained with, and nothing that a prompt or a training sample depends on.
HEADS = {
    "model.d_prime", "model.distill", "model.uniform", "model.distill_loss", "model.distill_normalize",
    "model.weights.retrieval", "model.weights.cf_retrieval", "model.weights.distill", "model.weights.uniform",
    "model.candidates", "model.negatives", "model.head_hidden", "train.batch_size", "train.lr", "train.lr_decay",
    "train.beta2", "train.weight_decay", "train.epochs", "train.evaluations_per_epoch", "train.patience",
}  # fmt: skip
FULL_SECTIONS = ("sasrec", "model", "train")
# What decides a trial's value beside its own values; the rest of params.yaml may change while a study goes on.
DECIDING = ("data", "sample", "split", "backbone", "sasrec", "model", "train")


def check(params: Params) -> None:
    """Refuse a space that the fidelity cannot search, or that holds a value that params.yaml may not have.

    Raises:
        ParamsError: an unknown key, one given twice or of another section, or a value out of its range.
    """
    tune = params.tune
    known, keys = flatten(params.model_dump()), [dimension.key for dimension in tune.space]
    for key in keys:
        if keys.count(key) > 1:
            raise ParamsError(f"tune.space holds `{key}` more than once; keep one.")
        if (key in known and key.partition(".")[0] not in FULL_SECTIONS) or key in ("train.monitor", "train.seed"):
            raise ParamsError(f"tune.space holds `{key}`; only keys of {', '.join(FULL_SECTIONS)} can be tuned.")
        if key in known and tune.fidelity == "heads" and key not in HEADS:
            raise ParamsError(
                f"tune.space holds `{key}`, which decides what goes into the language model, and tune.fidelity: heads "
                "keeps that as the checkpoint has it; set tune.fidelity: full, or take the key out."
            )
    for dimension in tune.space:
        for value in dimension.choices or (dimension.low, dimension.high):
            replace(params, {dimension.key: value})


def replace(params: Params, values: Values) -> Params:
    """`params` with the values of some keys, such as `{"model.d_prime": 64}`.

    Raises:
        ParamsError: an unknown key or a value that its key may not have.
    """
    tree = params.model_dump()
    for key, value in values.items():
        *parents, last = key.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    return parameters.parse(tree, "tune.space")


def suggest(trial: Trial, space: list[Dimension]) -> Values:
    """What `trial` gives each key."""
    return values({dimension.key: _draw(trial, dimension) for dimension in space})


def _draw(trial: Trial, dimension: Dimension) -> Any:
    key, low, high = dimension.key, dimension.low, dimension.high
    if low is None or high is None:
        return trial.suggest_categorical(key, dimension.choices or [])
    if isinstance(low, int) and isinstance(high, int):
        return trial.suggest_int(key, low, high, log=dimension.log)
    return trial.suggest_float(key, low, high, log=dimension.log)


def values(drawn: Values) -> Values:
    """A trial's parameters as params.yaml gets them: floats with `DIGITS` significant digits."""
    return {key: float(f"{v:.{DIGITS}g}") if isinstance(v, float) else v for key, v in drawn.items()}


def text(values: Values) -> str:
    """`model.d_prime 128, model.weights.distill 1.0`"""
    return ", ".join(f"{key} {value}" for key, value in values.items())


def paper(space: list[Dimension]) -> Values | None:
    """The paper's values of all keys, the first trial; None if the space leaves one of them out."""
    first = {dimension.key: presets.PAPER.get(dimension.key) for dimension in space}
    return first if all(_holds(dimension, first[dimension.key]) for dimension in space) else None


def _holds(dimension: Dimension, value: Any) -> bool:
    if dimension.low is None or dimension.high is None:
        return value in (dimension.choices or ())
    return isinstance(value, (int, float)) and dimension.low <= value <= dimension.high


def deciding(params: Params) -> Values:
    """Every key outside the space that decides a trial's value, flat."""
    tree = params.model_dump()
    flat = flatten({section: tree[section] for section in DECIDING})
    flat["evaluate.validation_users"] = params.evaluate.validation_users
    tuned = {dimension.key for dimension in params.tune.space}
    return {key: value for key, value in flat.items() if key not in tuned}
