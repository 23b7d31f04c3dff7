"""What a page of tables or claims was made on, in a few sentences."""

from llmsrec.params import Params


def about(params: Params) -> str:
    """The data, the language model, the teacher and the training that params.yaml names; rows say what they change."""
    data, backbone, teacher = params.data, params.backbone, params.sasrec
    model, train = params.model, params.train
    users = "all users" if data.user_fraction == 1 else f"a share of {data.user_fraction:g} of the users"
    start = "" if train.start == "scratch" else f" Begun from {train.start}."
    return (
        f"Data: {data.category} ({data.source}), {users}, {data.core}-core, split by {params.split.by}. "
        f"Language model: {backbone.model}, {backbone.dtype}. "
        f"SASRec: {teacher.loss}, {teacher.samples}, items {teacher.items}, at most {teacher.epochs} epochs. "
        f"LLM-SRec: {train.targets} targets, {model.negatives} negatives, at most {train.epochs} epochs in batches of "
        f"{train.batch_size}, a learning rate of {train.lr:g} times {train.lr_decay:g} at each of "
        f"{train.evaluations_per_epoch} checks an epoch, patience {train.patience}.{start}"
    )
