"""Is the language model worth it on this data? The paper's claims one by one, about LLM-SRec as params.yaml has it.

All are trained by the main way (`dvc.yaml`): on the data, the language model and the teacher of params.yaml.
"""

from pathlib import Path

from llmsrec.experiments.collection import Collection

CLAIMS = Collection(
    package=__name__,
    names=("teacher", "losses", "order", "groups", "pretraining", "targets", "blend", "text"),
    command="claims",
    kind="claim",
    title="The claims, tried on this data",
    folder=Path("reports/claims"),
)
