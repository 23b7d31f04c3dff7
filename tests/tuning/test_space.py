import re
from pathlib import Path
from typing import Any

import optuna
import pytest

from llmsrec import params as parameters
from llmsrec.errors import ParamsError
from llmsrec.params import Params
from llmsrec.tuning import space, trials

ROOT = Path(__file__).resolve().parents[2]
D_PRIME = {"key": "model.d_prime", "choices": [64, 128]}
DISTILL = {"key": "model.weights.distill", "low": 0.1, "high": 10.0, "log": True}


def made(fidelity: str, *dimensions: dict[str, Any]) -> Params:
    tree = parameters.load(ROOT / "params.yaml").model_dump()
    tree["tune"] |= {"fidelity": fidelity, "space": list(dimensions)}
    return parameters.parse(tree)


@pytest.mark.parametrize(
    ("fidelity", "dimension", "message"),
    [
        ("heads", {"key": "model.d_primes", "choices": [1, 2]}, "unknown key `model.d_primes`; the nearest valid key"),
        (
            "heads",
            {"key": "sasrec.dim", "choices": [32, 64]},
            "`sasrec.dim`, which decides what goes into the",
        ),
        ("heads", {"key": "model.history", "low": 2, "high": 9}, "`model.history`, which decides what goes into"),
        ("full", {"key": "data.core", "low": 3, "high": 9}, "only keys of sasrec, model, train can be tuned"),
        ("full", {"key": "train.monitor", "choices": ["full/hr_10", "uni99/hr_10"]}, "only keys of sasrec, model,"),
        (
            "full",
            {"key": "train.lr", "low": -1.0, "high": 1.0},
            "tune.space: `train.lr` is -1.0: must be more than 0.",
        ),
        ("heads", {"key": "model.d_prime", "choices": [64, "big"]}, "`model.d_prime` is 'big'"),
        ("full", {"key": "sasrec.heads", "choices": [1, 3]}, "dim 64 must be a multiple of heads 3"),
        ("heads", {"key": "model.d_prime"}, "model.d_prime needs either `choices`, or `low` and `high`"),
        ("heads", {"key": "model.d_prime", "choices": [1, 2], "low": 1}, "needs either `choices`, or `low` and `high`"),
        ("heads", {"key": "model.d_prime", "low": 64, "high": 64}, "has low 64, which is not below high 64"),
        ("heads", {"key": "train.lr", "low": 0.0, "high": 1.0, "log": True}, "so `low` must be above 0"),
    ],
)
def test_a_space_that_cannot_be_searched_is_refused(fidelity: str, dimension: dict[str, Any], message: str) -> None:
    with pytest.raises(ParamsError, match=re.escape(message)):
        space.check(made(fidelity, dimension))


def test_a_key_given_twice_is_refused() -> None:
    with pytest.raises(ParamsError, match=r"holds `model\.d_prime` more than once"):
        space.check(made("heads", D_PRIME, D_PRIME))


def test_the_committed_space_is_searched_from_the_papers_values() -> None:
    committed = parameters.load(ROOT / "params.yaml")
    space.check(committed)
    assert space.paper(committed.tune.space) == {
        "model.d_prime": 128,
        "model.weights.distill": 1.0,
        "model.weights.uniform": 1.0,
    }


@pytest.mark.parametrize(
    "dimension",
    [
        {"key": "model.d_prime", "choices": [32, 64]},
        {"key": "model.weights.distill", "low": 2.0, "high": 3.0},
        {"key": "split.seed", "low": 0, "high": 3},
    ],
)
def test_a_space_without_one_of_the_papers_values_has_no_first_trial(dimension: dict[str, Any]) -> None:
    assert space.paper(made("full", DISTILL, dimension).tune.space) is None


def test_draws_are_of_their_type_and_short() -> None:
    uniform = {"key": "model.uniform", "choices": [True, False]}
    candidates = {"key": "model.candidates", "low": 2, "high": 5}
    dimensions = made("full", D_PRIME, DISTILL, candidates, uniform).tune.space
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(20):
        drawn = space.suggest(study.ask(), dimensions)
        assert drawn["model.d_prime"] in (64, 128)
        assert 0.1 <= drawn["model.weights.distill"] <= 10
        assert len(str(drawn["model.weights.distill"])) <= 5
        assert drawn["model.candidates"] in range(2, 6)
        assert isinstance(drawn["model.candidates"], int)
        assert isinstance(drawn["model.uniform"], bool)


def test_values_replace_keys_and_nothing_else() -> None:
    before = made("heads", D_PRIME)
    after = space.replace(before, {"model.d_prime": 7, "model.weights.distill": 0.5})
    assert (after.model.d_prime, after.model.weights.distill) == (7, 0.5)
    assert space.replace(after, {"model.d_prime": 128, "model.weights.distill": 1.0}) == before


def test_what_decides_a_trial_leaves_out_the_space_and_what_comes_after_training() -> None:
    deciding = space.deciding(made("heads", D_PRIME))
    assert deciding["train.lr"] == 0.001
    assert deciding["evaluate.validation_users"] == 1000
    assert not {"model.d_prime", "evaluate.bootstrap", "registry.model", "tune.trials"} & deciding.keys()


def test_sasrecs_settings_are_not_tuned_where_another_teaches() -> None:
    params = made("full", {"key": "sasrec.dim", "choices": [32, 64]})
    taught = params.model_copy(update={"model": params.model.model_copy(update={"teacher": "gru4rec"})})
    with pytest.raises(ParamsError, match=r"tune\.space has sasrec\.dim, and model\.teacher is gru4rec"):
        trials.inputs(taught)
