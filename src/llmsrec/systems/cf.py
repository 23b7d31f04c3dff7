"""GRU4Rec, BERT4Rec and NextItNet: trained as SASRec is, ranked by the dot product of their vectors."""

from typing import Any

from pydantic import Field, model_validator

from llmsrec import distributed
from llmsrec.models.cf import teacher
from llmsrec.params import Cloze, NextItem, heads_divide_dim
from llmsrec.systems.task import Ranked, Task
from llmsrec.training import next_item


class GRU4Rec(NextItem):
    system = "gru4rec"
    dim: int = Field(ge=1)
    hidden: int = Field(ge=1)
    layers: int = Field(ge=1)
    embedding_dropout: float = Field(ge=0, lt=1)
    dropout: float = Field(ge=0, lt=1)


class BERT4Rec(Cloze):
    system = "bert4rec"
    dim: int = Field(ge=1)
    blocks: int = Field(ge=1)
    heads: int = Field(ge=1)
    dropout: float = Field(ge=0, lt=1)

    _heads = model_validator(mode="after")(heads_divide_dim)


class NextItNet(NextItem):
    system = "nextitnet"
    dim: int = Field(ge=1)
    dilations: list[int] = Field(min_length=1)
    dropout: float = Field(ge=0, lt=1)

    @model_validator(mode="after")
    def dilations_are_distances(self) -> "NextItNet":
        if min(self.dilations) < 1:
            raise ValueError(f"dilations {self.dilations} are numbers of positions, 1 at least")
        return self


SETTINGS: dict[str, type[NextItem]] = {"gru4rec": GRU4Rec, "bert4rec": BERT4Rec, "nextitnet": NextItNet}


def train(task: Task) -> list[dict[str, Any]]:
    """Train until the validation score no longer rises; the weights of the best epoch are written to `task.folder`."""
    model, curve = next_item.train(
        task.sequences,
        histories=task.valid.histories,
        targets=task.valid.targets,
        items=task.items,
        settings=task.settings,
        resume=task.resume,
        device=task.device,
        repeats=task.params.data.repeats,
    )
    if distributed.is_main():
        teacher.save(model, task.folder)
    return curve


def rank(task: Task) -> Ranked:
    """Ranks by the trained model's user and item vectors."""
    model = teacher.load(task.folder, task.system)
    vectors = {split: model.user_vectors(of.histories).numpy()[1:] for split, of in task.cases.items()}
    return task.rank_vectors(vectors | {"items": model.item_vectors().detach().numpy()})
