"""The paper's tables and figures."""

from pathlib import Path

from llmsrec.experiments.collection import Collection

TABLES = Collection(
    package=__name__,
    names=(
        "table3", "table4", "table6", "table7", "table8", "table9", "table11", "table12", "table13", "figure1",
        "figure3", "figure4", "figure5", "figure6", "figure7", "figure8", "similarity",
    ),
    command="paper",
    kind="table or figure",
    title="The paper's experiments on this data",
    folder=Path("reports/paper"),
)  # fmt: skip
