"""The model card of a version that is a sequential recommender by itself, such as GRU4Rec."""

from collections.abc import Iterator

from llmsrec.evaluation.names import MODELS
from llmsrec.registry.card import OFFLINE, Facts, origin, page, short, verdict


def text(facts: Facts) -> str:
    """The card in Markdown."""
    test = facts.comparison["means"][facts.comparison["model"]]["test"]
    full, uni99 = (short(test[protocol]["ndcg_10"]["mean"], 4) for protocol in ("full", "uni99"))
    headline = f"NDCG@10 {full} among all items, {uni99} on uni99: {_name(facts)} by itself"
    own = {"use": _use(facts), "training": _training(facts), "limits": _limits(facts), "load": _load(facts)}
    return page(facts, headline, **own)


def _name(facts: Facts) -> str:
    return MODELS[facts.comparison["model"]]


def _use(facts: Facts) -> Iterator[str]:
    shapes = facts.config["shapes"]
    yield f"Recommends the next of {shapes['items']:,} items from the last {shapes['max_length']} of a user's, by"
    yield f"{_name(facts)} and no language model. A user need not have been in the training data; items outside the"
    yield "catalogue are skipped and named, and a history with none left gets the popular items and says so."
    yield ""
    yield "- its one tower is `teacher`, which a request gets that names none; `llm` and `cf` are refused"
    yield "- it reads no titles: neither `/similar` by title nor `llmsrec items add` work with it"
    yield ""
    yield "Not for other catalogues, for items added since, or for decisions about people."


def _training(facts: Facts) -> Iterator[str]:
    system, curve = facts.comparison["model"], facts.logged.curve
    own = [(key.partition(".")[2], value) for key, value in facts.logged.params.items() if key.startswith(f"{system}.")]
    yield f"- {_name(facts)}: {', '.join(f'{key} {value}' for key, value in own)}"
    order = "shuffled" if str(facts.logged.params["split.shuffle_train"]) == "True" else "in order"
    yield f"- {len(curve)} epochs, histories {order}; the best by validation was kept"
    yield origin(facts)


def _limits(facts: Facts) -> Iterator[str]:
    order = facts.comparison["shuffle"][facts.comparison["model"]]["full"]["ndcg_10"]
    yield f"- Shuffling a user's history makes it {verdict(order, 'better', 'worse')}."
    yield OFFLINE


def _load(facts: Facts) -> Iterator[str]:
    uri = f"models:/{facts.model}/{facts.version}"
    yield "    export MLFLOW_TRACKING_URI=...   # of this server"
    yield f"    llmsrec serve {uri}   # or: mlflow models serve -m {uri} --env-manager local"
    yield f"    llmsrec recommend --model {uri} --history <parent_asin>@<ms> --k 10"
