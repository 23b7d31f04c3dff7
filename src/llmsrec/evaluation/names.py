"""What models, protocols, splits and metrics are called, in files and for people."""

# As they stand in tables: LLM-SRec, what it is compared with, and its teacher.
MODELS = {
    "llm_srec": "LLM-SRec",
    "a_llmrec": "A-LLMRec",
    "collm": "CoLLM",
    "llara": "LLaRA",
    "tallrec": "TALLRec",
    "recformer": "RECFORMER",
    "ctrl": "CTRL",
    "ctrl_random": "CTRL's control",
    "nextitnet": "NextItNet",
    "bert4rec": "BERT4Rec",
    "gru4rec": "GRU4Rec",
    "sasrec": "SASRec",
    "popularity": "popularity",
}
OURS = "llm_srec"
SPLITS = ("valid", "test", "test_shuffled")
# {negatives}: how many are drawn for each user
PROTOCOLS = {"uni99": "among {negatives} sampled items", "full": "among all items"}
TITLES = ("uni19_likelihood", "uni19_mean_likelihood", "uni19_generated")  # three readings of a titles model
VALID_RATIO = "valid_ratio"  # beside uni19_generated: the share of answers that are one of the 20 titles
SASREC_TITLES = "uni19"  # SASRec's ranks among the same 20
METRICS = ("ndcg_10", "hr_10", "ndcg_20", "hr_20")
OF_20 = ("hr_1", "hr_5", "ndcg_10")  # of protocols with 20 candidates
HEADLINE = ("ndcg_10", "hr_10")  # of slices and intervals; all four are in metrics/evaluation.json


def metrics(protocol: str) -> tuple[str, ...]:
    """What is reported under a protocol. Generated text has no second place."""
    if protocol == "uni19_generated":
        return ("hr_1",)
    return OF_20 if protocol.startswith("uni19") else METRICS


def sliced(protocol: str) -> str:
    """The metric of slices and of shuffled histories."""
    return metrics(protocol)[0]


def shown(metric: str) -> str:
    """`ndcg_10` -> `NDCG@10`"""
    return metric.upper().replace("_", "@")


def meaning(protocol: str, negatives: int) -> str:
    """`uni99: among 99 sampled items`"""
    return f"{protocol}: {PROTOCOLS[protocol].format(negatives=negatives)}"
