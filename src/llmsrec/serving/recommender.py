"""From requests to answers: read histories, ask a tower for user vectors, rank the catalogue."""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import polars as pl

from llmsrec.data.titles import UNTITLED, clean
from llmsrec.errors import RequestError, shown
from llmsrec.evaluation.blend import Blend
from llmsrec.serving import limits, neighbours
from llmsrec.serving.bundle import Bundle
from llmsrec.serving.catalogue import Catalogue
from llmsrec.serving.index import Index
from llmsrec.serving.neighbours import Directions
from llmsrec.serving.runtime import runtime
from llmsrec.serving.schema import Answer, Filter, Neighbours, Reason, Recommendation, Request, Shares, Similar
from llmsrec.serving.search import Best, Exact, Search, Sum, top
from llmsrec.serving.towers import ITEMS, BlendTower, CFTower, History, Teacher, Tower, widest

if TYPE_CHECKING:
    from llmsrec.serving.llm_tower import LLMTower

BATCH = 32  # histories that go through the `llm` tower at once; for others see `towers.widest`
ALIKE = np.ones(1, dtype=np.float32)  # in place of a user vector, where all users get the same items


class Recommender:
    """Answers requests from one bundle. The `llm` tower is loaded when it is first asked for.

    Args:
        on_onnx: run the language model on ONNX Runtime, where the bundle has it for that. Without torch it always is.
    """

    def __init__(self, bundle: Bundle, on_onnx: bool = False) -> None:
        self._bundle, self._on_onnx = bundle, on_onnx
        self._asins = bundle.items["parent_asin"].to_list()
        self._titles = bundle.items["title"].to_list()
        self._untitled = (bundle.items["title"] == UNTITLED).to_numpy()
        self._ids = {asin: item_id for item_id, asin in enumerate(self._asins, start=1)}
        of = {tower: ITEMS[tower] for tower in bundle.towers if tower in ITEMS}
        searches = {name: self._search(name) for name in set(of.values())}
        directions = {name: Directions(search.columns) for name, search in searches.items()}
        self._searches: dict[str, Search] = {tower: searches[name] for tower, name in of.items()}
        self._directions = {tower: directions[name] for tower, name in of.items()}
        if "blend" in bundle.towers:
            self._searches["blend"] = Sum(self._searches["llm"], self._searches["teacher"], self._untitled)
            self._directions["blend"] = self._directions["llm"]
        counts = bundle.items["count"].to_numpy().astype(np.float32)
        self._popular = Exact(counts[None], self._untitled)
        self._catalogue = Catalogue(bundle)
        self._towers: dict[str, Tower] = {"teacher": Teacher(bundle)}
        if "cf" in bundle.towers:
            self._towers["cf"] = CFTower(bundle)
        self._batches = {"llm": BATCH, "blend": BATCH}
        self._loading = threading.Lock()

    @classmethod
    def load(cls, folder: Path) -> "Recommender":
        """Open a bundle folder.

        Raises:
            DataError: not a bundle, or not as it was written.
        """
        return cls(Bundle.open(folder))

    def warm(self) -> None:
        """Load what the first request of any tower would have to wait for."""
        if "llm" in self._bundle.towers:
            self.tower("llm")

    def keep(self, limit: int) -> None:
        """Have the `llm` tower keep up to so many bytes of what it computes of users' prompts, see `engine.kept`."""
        cast("LLMTower", self.tower("llm")).keep(limit)

    def kept(self) -> dict[str, int] | None:
        """`engine.kept.Kept.counted`; None where nothing is kept."""
        kept = cast("LLMTower", self.tower("llm")).kept
        return kept.counted() if kept else None

    def tower_of(self, request: Request | Similar) -> str:
        """The name of the tower that answers a request: its own, or the bundle's first."""
        return request.tower or self._bundle.towers[0]

    def recommend(self, requests: Sequence[Request]) -> list[Answer]:
        """Answer requests in their order; each answer is what the request alone would get.

        Of `cf` and `teacher` that holds to the last digit. The language model reads several histories as one batch,
        which changes a score by up to 1e-5 of the largest; items whose scores are nearer than that may change places.

        Raises:
            RequestError: more than `limits` allow, `k` beyond the catalogue, a tower that the model does not have, or
                the `llm` tower where torch is not installed.
        """
        self.check(requests)
        return self._recommend(requests)

    def answer(self, requests: Sequence[Request | Similar]) -> list[Answer | Neighbours]:
        """`recommend` and `similar`, of requests of both kinds that were checked, in their order."""
        wanted = [request for request in requests if isinstance(request, Request)]
        answers = iter(self._recommend(wanted))
        return [next(answers) if isinstance(r, Request) else self._similar(r) for r in requests]

    def _recommend(self, requests: Sequence[Request]) -> list[Answer]:
        histories = [
            self.history(
                [e.parent_asin for e in request.history],
                [e.timestamp for e in request.history],
            )
            for request in requests
        ]
        answers: dict[int, Answer] = {}
        by_tower: dict[str, list[int]] = {}
        for row, (request, history) in enumerate(zip(requests, histories, strict=True)):
            if len(history.items):
                by_tower.setdefault(self.tower_of(request), []).append(row)
            else:
                answers[row] = self._answer(request, history, ALIKE, self._popular)
        for name, rows in by_tower.items():
            size = self._batch(name) if len(rows) > 1 else 1
            for start in range(0, len(rows), size):
                batch = rows[start : start + size]
                vectors = self.tower(name).vectors([histories[row] for row in batch])
                for row, vector in zip(batch, vectors, strict=True):
                    answers[row] = self._answer(requests[row], histories[row], vector, self._searches[name])
        return [answers[row] for row in range(len(requests))]

    def _batch(self, name: str) -> int:
        """How many histories go through a tower at once; tried when that is asked for first."""
        if name not in self._batches:
            self._batches[name] = widest(self.tower(name), self._bundle.trained)
        return self._batches[name]

    def check(self, requests: Sequence[Request]) -> None:
        """Raise what `recommend` raises for requests that cannot be answered together, before any work."""
        limits.check_sums(requests)
        for number, request in enumerate(requests):
            self._check_items(request, f"request {number}")
            self._bundle.check_tower(self.tower_of(request), f"request {number}, `tower`")

    def history(self, asins: list[str], timestamps: list[int]) -> History:
        """Oldest first (ties in the order given), of repeats the first or all, as in the data that was trained on."""
        events = [(asins[place], timestamps[place]) for place in sorted(range(len(asins)), key=timestamps.__getitem__)]
        first: dict[str, int] = {}
        for asin, time in events:
            first.setdefault(asin, time)
        kept = events if self._bundle.repeats else list(first.items())
        known = [(self._ids[asin], time) for asin, time in kept if asin in self._ids]
        return History(
            items=np.array([item for item, _ in known], dtype=np.int64),
            timestamps=np.array([time for _, time in known], dtype=np.int64),
            unknown=[asin for asin in first if asin not in self._ids],
        )

    def _search(self, name: str) -> Search:
        """What ranks the items by their vectors."""
        rows, path = self._bundle.tensors[name][1:], self._bundle.index(name)
        return Index.read(path, rows, self._untitled) if path else Exact(np.ascontiguousarray(rows.T), self._untitled)

    def excluded(self, history: History) -> np.ndarray:
        """Indices of the items that are not recommended after a history: its own, or none where repeats were kept."""
        return history.items[:0] if self._bundle.repeats else history.items - 1

    def rank(self, histories: list[History], tower: str, k: int) -> list[Best]:
        """What `recommend` ranks, for histories that are one batch: `[<= k]` indices of items, best first, and scores.

        The order in which a tower sees the batch is the caller's, and so is its size.

        Args:
            histories: each with one known item at least.
        """
        vectors = self.tower(tower).vectors(histories)
        return self._searches[tower].best(vectors, k, [self.excluded(history) for history in histories])

    def recall(self, tower: str, vectors: np.ndarray, k: int) -> float | None:
        """What an index finds of the `k` best items for `[n, d']` user vectors, a mean share; None without an index."""
        search = self._searches[tower]
        return search.recall(vectors, search.truth(vectors, k)) if isinstance(search, Index) else None

    def popular(self, k: int) -> Best:
        """What a history without a known item gets: `[k]` indices of items, best first, and their events."""
        return self._popular.best(ALIKE[None], k, [np.empty(0, dtype=np.int64)])[0]

    def similar(self, request: Similar) -> Neighbours:
        """The items whose vectors are nearest to that of an item, or of an item with some title.

        Raises:
            RequestError: the catalogue has no such item, `k` is beyond it, or a title where torch is not installed.
        """
        self.check_similar(request)
        return self._similar(request)

    def check_similar(self, request: Similar) -> None:
        """Raise what `similar` raises for a request that cannot be answered, before any work."""
        if request.title is not None and "llm" not in self._bundle.towers:
            raise RequestError(
                f"the request, `title` is {shown(request.title)}, but this model is {self._bundle.teacher} by itself, "
                "which reads no titles; ask by `parent_asin`."
            )
        if request.title is not None and _plain(request.title) == UNTITLED:
            raise RequestError(f"the request, `title` is {shown(request.title)}, which names nothing; give a title.")
        if request.parent_asin is not None and request.parent_asin not in self._ids:
            raise RequestError(
                f"the request, `parent_asin` is {shown(request.parent_asin)}, which the catalogue does not have; ask "
                "by the item's `title` instead."
            )
        self._check_items(request, "the request")

    def _check_items(self, request: Request | Similar, name: str) -> None:
        """Raise RequestError, in which the request has a name, for items that the catalogue does not have."""
        count = len(self._asins)
        if request.k > count and request.allow is None:
            raise RequestError(
                f"{name}, `k` is {request.k}, but the catalogue has {count} items; ask for 1 to {count}."
            )
        if request.filter:
            self._catalogue.check(request.filter, name)

    def _similar(self, request: Similar) -> Neighbours:
        directions, own = self._directions[self._bundle.towers[0]], np.empty(0, dtype=np.int64)
        if request.parent_asin is not None:
            own = np.array([self._ids[request.parent_asin] - 1])
            cosines = directions.cosines(directions.of(own)[0])
        else:
            cosines = directions.cosines(cast("LLMTower", self.tower("llm")).of_titles([_plain(str(request.title))])[0])
        exclude = self._left_out(own, request.allow, request.block, request.filter)
        best = top(cosines, request.k, exclude, self._untitled)
        return Neighbours(items=self._named(best, cosines[best]))

    def _answer(self, request: Request, history: History, vector: np.ndarray, search: Search) -> Answer:
        tower, own = self.tower_of(request), self.excluded(history)
        if request.exclude_history is not None:
            own = history.items - 1 if request.exclude_history else own[:0]
        exclude = self._left_out(own, request.allow, request.block, request.filter)
        directions, count = self._directions[tower], request.k
        if request.diversity:
            count = max(neighbours.POOL * request.k, neighbours.SMALLEST_POOL)
        ((best, scores),) = search.best(vector[None], count, [exclude])
        if request.diversity:
            titled = int((~self._untitled[best]).sum())  # the others stand behind them
            places = neighbours.diverse(scores[:titled], directions.of(best[:titled]), request.k, request.diversity)
            places = np.concatenate([places, np.arange(titled, len(best))])[: request.k]
            best, scores = best[places], scores[places]
        items = self._named(best, scores)
        if request.explain and len(history.items) and isinstance(search, Sum):
            for item, (llm, teacher) in zip(items, search.shares(vector, best).T.tolist(), strict=True):
                item.shares = Shares(llm=llm, teacher=teacher)
        if request.explain and len(history.items) and items:
            reasons, similarities = directions.nearest(best, among=history.items - 1)
            for item, reason, similarity in zip(items, reasons, similarities, strict=True):
                item.because = Reason(
                    parent_asin=self._asins[reason], title=self._titles[reason], similarity=float(similarity)
                )
        return Answer(
            items=items,
            used=len(history.items),
            unknown=history.unknown,
            fallback=None if len(history.items) else "popular",
            unknown_candidates=[asin for asin in dict.fromkeys(request.allow or []) if asin not in self._ids] or None,
        )

    def _left_out(
        self, own: np.ndarray, allow: list[str] | None, block: list[str], wanted: Filter | None
    ) -> np.ndarray:
        """Indices of the items that may not be named: `own`, and what the lists and the filter of a request leave out.

        Ids that the catalogue does not have change nothing.
        """
        if allow is None and not block and wanted is None:
            return own
        out = np.zeros(len(self._asins), dtype=bool)
        if allow is not None:
            out[:] = True
            out[self._indices(allow)] = False
        if wanted is not None:
            out |= ~self._catalogue.passing(wanted)
        out[self._indices(block)] = True
        out[own] = True
        return np.flatnonzero(out)

    def _indices(self, asins: list[str]) -> np.ndarray:
        return np.array([self._ids[asin] - 1 for asin in asins if asin in self._ids], dtype=np.int64)

    def _named(self, best: np.ndarray, scores: np.ndarray) -> list[Recommendation]:
        return [
            Recommendation(parent_asin=self._asins[index], title=self._titles[index], score=float(score))
            for index, score in zip(best, scores, strict=True)
        ]

    def tower(self, name: str) -> Tower:
        """What reads histories for the tower `name`; loaded when it is first asked for.

        Raises:
            RequestError: the `llm` or `blend` tower where torch is not installed.
        """
        if name == "blend":
            return BlendTower(self.tower("llm"), self.tower("teacher"), Blend(**self._bundle.config["blend"]))
        with self._loading:
            if name not in self._towers:
                self._towers[name] = self._llm_tower()
            return self._towers[name]

    @property
    def runtime(self) -> str | None:
        """What runs the language model, see `runtime.runtime`."""
        return runtime(self._bundle.folder, self._on_onnx)

    def _llm_tower(self) -> "LLMTower":
        # torch and transformers take seconds, and the other towers need neither; nor does ONNX Runtime.
        from llmsrec.serving.llm_tower import LLMTower

        if self.runtime == "onnx":
            from llmsrec.serving.on_onnx import OnOnnx

            return LLMTower(self._bundle, OnOnnx(self._bundle.folder))
        try:
            from llmsrec.serving.on_torch import OnTorch
        except ModuleNotFoundError as error:
            raise RequestError(
                f"`tower` is 'llm', but {error.name} is not installed where this model is served, and its language "
                "model runs on torch alone; ask for 'teacher' or 'cf', or serve it with torch (target `serve-torch` of "
                "the Dockerfile)."
            ) from error
        return LLMTower(self._bundle, OnTorch(self._bundle))


def _plain(title: str) -> str:
    """A title as the catalogue would hold it."""
    return str(clean(pl.Series([title]))[0])
