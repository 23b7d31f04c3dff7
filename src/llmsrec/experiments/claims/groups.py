"""Where LLM-SRec is better than its teacher: by warm and cold items, and by how common a user's transitions are."""

from llmsrec.evaluation.names import MODELS, PROTOCOLS
from llmsrec.evaluation.tables import Table
from llmsrec.experiments.claims.sides import LLM_SREC, METRIC, TEACHER
from llmsrec.experiments.results import Results
from llmsrec.experiments.runs import MAIN, Run, of
from llmsrec.experiments.section import Section, claim, level, note

TITLE = "Groups of users"
GROUPS = ("warm", "cold", "transition", "non_transition")
SHOWN = ("llm_srec", "sasrec")


def runs(seeds: list[int]) -> list[Run]:
    return of(["original"], [MAIN], seeds)


def make(results: Results) -> Section:
    members = {name: results.slices()[name].to_numpy() for name in GROUPS}
    tables, claims = [], []
    for protocol in PROTOCOLS:
        values = {model: results.values("original", model, "test", protocol, METRIC) for model in SHOWN}
        rows = []
        for group, inside in members.items():
            title = f"{group.replace('_', '-')}, {inside.sum():,} users"
            rows.append((title, *(level(values[model][:, inside], results.measures) for model in SHOWN)))
            ours, theirs = (values[model][:, inside] for model in SHOWN)
            text = f"{protocol}, {title}: {LLM_SREC} is better than {TEACHER}"
            claims.append(claim(text, ours, theirs, results.measures))
        head = ("", *(MODELS[model] for model in SHOWN))
        tables.append(Table(f"Test NDCG@10, {protocol}", head, rows, note(results.measures, results.seeds)))
    return Section(TITLE, tables, claims)
