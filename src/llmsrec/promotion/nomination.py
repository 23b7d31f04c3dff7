"""Whose the alias `registry.alias` (candidate) is: a plain `dvc repro` moves it, and else a person does."""

from mlflow import MlflowClient

DATA = ("data.category", "data.source")  # tags of a version: which data it is of
EXPERIMENT = "dvc.experiment"


def refusal(client: MlflowClient, model: str, alias: str, version: int, nominate: str, tags: dict[str, str]) -> str:
    """Why registration leaves the alias where it is, and what moves it; empty where it may take it.

    With `auto`, an alias that nobody holds is taken by whoever comes first.

    Args:
        nominate: `registry.nominate`.
        tags: of the version, as it is registered now.
    """
    by_hand = f"`llmsrec nominate {model}/{version}` moves it"
    if nominate == "never":
        return f"`registry.nominate` is never; {by_hand}"
    holder = client.get_registered_model(model).aliases.get(alias)
    if nominate == "always" or holder is None or int(holder) == version:
        return ""
    theirs, ours = client.get_model_version(model, str(holder)).tags, [tags.get(key) for key in DATA]
    if all(key in theirs for key in DATA) and ours != [theirs[key] for key in DATA]:
        category, source = ours
        return (
            f"version {holder} holds it and is of other data, {theirs[DATA[0]]} ({theirs[DATA[1]]}), where this is of "
            f"{category} ({source}); give each data set a model of its own (`registry.model`), or {by_hand}"
        )
    if tags.get(EXPERIMENT):
        return f"an experiment leaves it with version {holder}; {by_hand}"
    return ""
