"""The scores of the language model's users and of the teacher's, joined: the tower `blend`.

    s(u, i) = (1 - w) s_llm(u, i) / sd_llm + w s_teacher(u, i) / sd_teacher

where sd is how far a tower's scores of one user are apart, the mean over users of their standard deviation over all
items, and w is what ranks validation users' next items best. As each score is a dot product, so is their sum: of
vectors that stand behind each other.
"""

from dataclasses import dataclass

import numpy as np

from llmsrec.evaluation.metrics import ndcg
from llmsrec.evaluation.ranks import rank

WEIGHTS = np.linspace(0, 1, 21)
LEAST = 1e-12  # of sd: where all items have one score, a tower says nothing, whatever its weight
Pair = tuple[np.ndarray, np.ndarray]  # of the language model, and of the teacher


@dataclass(frozen=True)
class Blend:
    """What joins two towers.

    Attributes:
        weight: w, 0 (the language model's scores alone) to 1 (the teacher's).
        llm, teacher: what their scores are multiplied with: (1 - w) / sd_llm and w / sd_teacher.
    """

    weight: float
    llm: float
    teacher: float

    def users(self, llm: np.ndarray, teacher: np.ndarray) -> np.ndarray:
        """`[n, d']` and `[n, d]` user vectors as `[n, d' + d]` float32."""
        return np.concatenate([llm * self.llm, teacher * self.teacher], axis=1).astype(np.float32)


def vectors(
    blend: dict[str, float], ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """The vectors of each split's users, and `items`, from those of LLM-SRec and of its teacher.

    Args:
        blend: config.json's.
        ours, theirs: split -> `[U, d']` and `[U, d]` user vectors, and `items`.
    """
    joined = Blend(**blend)
    made = {split: joined.users(of, theirs[split]) for split, of in ours.items() if split != "items"}
    return made | {"items": items(ours["items"], theirs["items"])}


def items(llm: np.ndarray, teacher: np.ndarray) -> np.ndarray:
    """`[I + 1, d']` and `[I + 1, d]` item vectors as `[I + 1, d' + d]`."""
    return np.concatenate([llm, teacher], axis=1)


def fit(users: Pair, item_vectors: Pair, targets: np.ndarray, offsets: np.ndarray, history: np.ndarray) -> Blend:
    """The blend with the best NDCG@10 among all items; of equals the one that is nearest to the language model's.

    Args:
        users: `[n, d']` and `[n, d]` vectors of validation users.
        item_vectors: `[I + 1, d']` and `[I + 1, d]`; rows 0 are padding.
        targets, offsets, history: see `ranks.rank`.
    """
    inverse = [1 / max(LEAST, spread(*of)) for of in zip(users, item_vectors, strict=True)]
    joined, best = items(*item_vectors), (-1.0, Blend(0.0, 1.0, 0.0))
    for weight in WEIGHTS.round(2).tolist():
        blend = Blend(weight, (1 - weight) * inverse[0], weight * inverse[1])
        score = float(np.mean(ndcg(rank(blend.users(*users), joined, targets, offsets, history)["full"], 10)))
        best = max(best, (score, blend), key=lambda scored: scored[0])
    return best[1]


def spread(users: np.ndarray, item_vectors: np.ndarray) -> float:
    """The mean over users of the standard deviation of their scores over items 1, 2, ..., I, which are never made.

    The variance of u · v over items is u C u, with C the covariance of their vectors.
    """
    covariance = np.atleast_2d(np.cov(item_vectors[1:], rowvar=False, bias=True))
    variances = np.einsum("nd,de,ne->n", users.astype(np.float64), covariance, users, optimize=True)
    return float(np.sqrt(np.maximum(variances, 0)).mean())
