"""A trained system asked about items that it has never met, those of other data (paper, 4.1.4, Table 8).

Neither the recommender that taught it nor the system is trained again: of the new items it has their titles. What f_I
reads of an item without a collaborative vector the paper does not say; here it is the mean of the vectors that the
teacher learnt, the same for all, which costs least of what was tried (docs/paper.md). A-LLMRec has an answer of its
own, the code of the item's text.
"""

import shutil
from pathlib import Path

import torch

from llmsrec.files import read_json
from llmsrec.models.cf import teacher as teachers
from llmsrec.models.cf.teacher import Teacher
from llmsrec.models.llm import allmrec
from llmsrec.models.llm.joined import WEIGHTS
from llmsrec.systems import a_llmrec
from llmsrec.systems.task import Task


def prepare(task: Task, trained: Path, teachers_from: Path) -> None:
    """Write into `task.folder` what was trained, and into `task.models` its teacher, with vectors for the task's items.

    Args:
        trained: the system's folder; of A-LLMRec, its stage 1 must be there too.
        teachers_from: the folder of the teachers.

    Raises:
        DataError: a file is missing or damaged.
    """
    config = read_json(trained / "config.json")
    name = config["model"]["teacher"]
    teachers.save(never_met(teachers.load(teachers_from / name, name), task.items), task.models / name)
    task.folder.mkdir(parents=True)
    for file in ("config.json", WEIGHTS):
        shutil.copyfile(trained / file, task.folder / file)
    if task.system == "a_llmrec":
        allmrec.write(task.folder / allmrec.CODES, {"joint": a_llmrec.text_codes(task, task.models / "encoder")})


def never_met(teacher: Teacher, items: int) -> Teacher:
    """The same recommender for `items` other items, whose vectors are all the mean of those that it learnt."""
    learnt = teacher.item_vectors().detach()
    table = torch.cat([learnt[:1], learnt[1:].mean(dim=0).expand(items, -1)])
    shape = {key: value for key, value in teacher.config.items() if key != "items"}
    model = teachers.create(teacher.system, items, shape)
    model.load_state_dict({**teacher.state_dict(), "item.weight": table})
    return model.eval()
