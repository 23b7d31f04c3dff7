"""What added items cost those of the training: more items to confuse a user's next one with."""

from typing import Any

import polars as pl

from llmsrec.data.held_out import sample
from llmsrec.errors import DataError
from llmsrec.evaluation.metrics import of_users, per_user
from llmsrec.evaluation.names import OURS
from llmsrec.evaluation.towers import PROTOCOL, group
from llmsrec.promotion.facts import METRIC, Evaluated
from llmsrec.scoring import held_out
from llmsrec.serving.bundle import Bundle

ASKED, SEED = 2000, 0  # test users, of those that are kept with a version


def asked_of(users: pl.DataFrame) -> pl.DataFrame:
    """Those test users of a version who are asked, always the same ones."""
    return users[sample(len(users), ASKED, SEED)]


def measure(bundle: Bundle, evaluated: Evaluated) -> dict[str, Any]:
    """Ask the towers of a bundle with added items about test users of its training; reports/added.json.

    Each user's NDCG@10 in the whole catalogue is compared with what it was among the items of the training: of `llm`
    and `blend` as the evaluation had it, so that a bundle which answers otherwise than the trained model shows here,
    too.

    Args:
        bundle: as `export.extended` wrote it.
        evaluated: the reports of the version that it extends.

    Returns:
        `extends`, `bundle_sha256`, `trained` and `items` (how many there are of each kind), `users`, `towers`: tower ->
        the paired difference with its interval, and `index`: tower -> what its index finds, where it has one.

    Raises:
        DataError: that version is from before test users were kept.
    """
    if evaluated.test_users is None:
        raise DataError(
            f"version {evaluated.version} was registered before test users were kept with a version, so what new items "
            "cost cannot be measured; `dvc repro` with its params registers it anew."
        )
    users = asked_of(evaluated.test_users)
    ranks = evaluated.ranks.filter(pl.col("user_id").is_in(users["user_id"].implode()))
    evaluated_as, before = {"llm": OURS, "blend": group("blend")}, {}
    for tower in bundle.towers:
        if evaluated.ranked(name := evaluated_as.get(tower, "")):
            before[tower] = of_users(ranks, name, "test", PROTOCOL, METRIC)
        else:
            before[tower] = per_user(held_out.rank(bundle.as_trained(), users, tower).ranks[PROTOCOL], METRIC)
    towers, index = {}, {}
    for tower, without in before.items():
        asked = held_out.rank(bundle, users, tower)
        towers[tower] = evaluated.difference(per_user(asked.ranks[PROTOCOL], METRIC), without)
        if asked.recall is not None:
            index[tower] = {"recall_10": asked.recall, "users": len(users)}
    return {
        "extends": bundle.config["extends"],
        "bundle_sha256": bundle.digest,
        "trained": bundle.trained,
        "items": len(bundle.items) - bundle.trained,
        "users": len(users),
        "towers": towers,
        "index": index,
    }
