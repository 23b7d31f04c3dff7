"""Table 3: retrieval by models that were trained on original and on shuffled sequences (paper, 2.3.1)."""

from llmsrec.experiments.paper import order
from llmsrec.experiments.results import Results
from llmsrec.experiments.runs import MAIN, Run, of
from llmsrec.experiments.section import Section

TITLE = "Table 3: shuffled training, retrieval"
PAPER: order.Published = {  # NDCG@10, uni99
    "sasrec": ((0.2918, 0.2688), (0.2267, 0.2104), (0.3451, 0.3312)),
    "tallrec": ((0.2585, 0.2579), (0.2249, 0.2223), (0.3100, 0.3003)),
    "llara": ((0.2844, 0.2921), (0.2048, 0.2079), (0.2464, 0.2695)),
    "collm": ((0.3111, 0.3181), (0.2565, 0.2636), (0.3152, 0.3143)),
    "a_llmrec": ((0.2875, 0.2973), (0.2791, 0.2741), (0.3119, 0.3078)),
    "llm_srec": ((0.3388, 0.3224), (0.3044, 0.2838), (0.3809, 0.3614)),
}
READINGS = {"Test NDCG@10, uni99": ("uni99", "ndcg_10"), "Test NDCG@10, full": ("full", "ndcg_10")}
WHAT = (MAIN, "tallrec-retrieval", "llara-retrieval", "collm-retrieval", "a_llmrec-retrieval")


def runs(seeds: list[int]) -> list[Run]:
    return of(order.ORDERS, WHAT, seeds)


def make(results: Results) -> Section:
    return order.section(results, TITLE, READINGS, PAPER, "llm_srec")
