"""LLM-SRec, SASRec and popularity on valid, test and shuffled test -> metrics, ranks, slices, comparisons and plots."""

from pathlib import Path

import numpy as np
import torch

from llmsrec import distributed
from llmsrec.data.sequences import Sequences
from llmsrec.engine.prefix_store import Budget
from llmsrec.evaluation import cases, headline, names, plots, report, slices, test_users, towers
from llmsrec.evaluation.significance import Bootstrap
from llmsrec.files import read_json, sha256, write_json
from llmsrec.models.cf import teacher as teachers
from llmsrec.models.llm import retrieval as llm_srec
from stages.common import Stage, run

DATA, MODELS, REPORTS = Path("data"), Path("models"), Path("reports")
ITEMS, INTERACTIONS = DATA / "filtered/items.parquet", DATA / "filtered/interactions.parquet"
SPLIT, CANDIDATES = DATA / "split", DATA / "split/candidates.parquet"


def main(stage: Stage) -> None:
    """Evaluate all users with a target; histories are those of the true order, also where training shuffled them."""
    torch.use_deterministic_algorithms(True)
    settings = stage.params.evaluate
    seed, bootstrap = settings.seed, Bootstrap(settings.bootstrap, settings.seed)
    sequences = Sequences.read(INTERACTIONS)
    train = Sequences.read(SPLIT / "train.parquet", sequences.users)
    splits = cases.read(sequences, SPLIT, stage.params.split.by, stage.params.data.repeats, seed)
    test, histories = splits["test"], {name: of.histories for name, of in splits.items()}
    teacher = stage.params.model.teacher
    models = vectors(teacher, histories, train, Budget.of(stage.params.backbone.prefixes, stage.root))
    if not distributed.is_main():
        return
    ranks = {name: {of: by.rank(v[of], v["items"]) for of, by in splits.items()} for name, v in models.items()}
    named = {name: ranks[name] for name in ranks if name in names.MODELS}
    groups = slices.of_test(sequences, train, test.users, test.targets)
    described = report.described({model: models[model] for model in {"llm_srec", teacher, "sasrec"}}, seed)
    of_towers, common = towers.of_test(ranks, teacher), towers.common(models, *test.excluded)
    comparison = report.comparison(named, groups, bootstrap) | {"towers": towers.compare(of_towers, common, bootstrap)}
    comparison |= {"data": stage.data("filtered", "split"), "negatives": test.negatives.shape[1], "teacher": teacher}
    comparison["paired_by"] = {path.name: sha256(path) for path in (INTERACTIONS, CANDIDATES)}
    evaluation = report.evaluation(named, groups, described, towers.groups(of_towers))
    for file, of in (("ranks", named), ("tower_ranks", {name: ranks[name] for name in ranks if name not in named})):
        report.write_ranks(REPORTS / f"{file}.parquet", of, {split: by.users for split, by in splits.items()})
    report.write_slices(REPORTS / "slices.parquet", groups, test.users)
    test_users.write(REPORTS, DATA / "filtered", settings.test_users, seed, test)
    write_json(REPORTS / "comparison.json", comparison)
    plots.training(REPORTS / "plots/training.png", read_json(MODELS / "llm_srec/curve.json"))
    for draw in (plots.shuffle, plots.slices, plots.towers):
        draw(REPORTS / f"plots/{draw.__name__}.png", comparison)
    headline.write(Path("metrics"), evaluation, teacher)
    print(report.table(evaluation, comparison["negatives"]), towers.text(comparison["towers"]), sep="\n", flush=True)


def vectors(
    taught_by: str, histories: dict[str, Sequences], train: Sequences, prefixes: Budget
) -> dict[str, towers.Vectors]:
    """The vectors of all models and towers, whose dot products are the scores; popularity's is a count."""
    model = llm_srec.load(MODELS / "llm_srec", MODELS / "backbone", MODELS / taught_by, ITEMS, prefixes)
    without_text = {name: teachers.load(MODELS / name, name) for name in dict.fromkeys((taught_by, "sasrec"))}
    counts = np.bincount(train.items, minlength=len(model.teacher.item_vectors()))
    by_model: dict[str, towers.Vectors] = {
        "llm_srec": {"items": model.item_vectors().numpy()},
        **{name: {"items": of.item_vectors().detach().numpy()} for name, of in without_text.items()},
        "popularity": {"items": counts[:, None]} | {name: np.ones((of.users, 1)) for name, of in histories.items()},
    }
    for split, seen in histories.items():
        by_model["llm_srec"][split] = model.user_vectors(seen, label=split).numpy()[1:]
        for name, of in without_text.items():
            by_model[name][split] = of.user_vectors(seen).detach().numpy()[1:]
    config, (ours, theirs) = read_json(MODELS / "llm_srec/config.json"), (by_model["llm_srec"], by_model[taught_by])
    by_model |= towers.vectors(config, lambda seen: model.cf_user_vectors(torch.from_numpy(seen)).numpy(), ours, theirs)
    return by_model


if __name__ == "__main__":
    run(main, "evaluate", parallel=True)
