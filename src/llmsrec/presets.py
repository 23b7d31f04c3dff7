"""Named sets of overrides of params.yaml: the paper's setting on each of its four data sets, a stronger teacher, and a
training that goes on from a version.

    dvc exp run $(llmsrec preset paper/Scientific)
    dvc exp run -S data.source=files -S data.category=Beauty $(llmsrec preset teacher/strong)
    dvc exp run -S train.start=shop/3 $(llmsrec preset warm)

`paper/...`: the paper's values (Appendix D) and, where it is silent, the reference implementation's: the SASRec that
teaches, candidates and history, the learning rate's decay at each check, what is monitored, heads, at most 10,000 users
a check. One value is our own: the backbone is read as bfloat16, where the implementation quantizes to 8 bit.
"""

from llmsrec.errors import ParamsError

Values = dict[str, str | int | float | bool]

PAPER: Values = {
    "data.source": "hub",
    "data.core": 5,
    "data.repeats": "first",
    "data.cold_fraction": 0.0,
    "split.by": "last",
    "split.negatives": 99,
    "split.shuffle_train": False,
    "backbone.model": "meta-llama/Llama-3.2-3B-Instruct",
    "backbone.revision": "0cb88a4f764b7a12671c53f0838cd831a0843b95",
    "backbone.dtype": "bfloat16",
    "backbone.quantization": "none",
    "backbone.lora_rank": 0,
    "sasrec.items": "id",
    "sasrec.dim": 64,
    "sasrec.blocks": 2,
    "sasrec.heads": 1,
    "sasrec.max_length": 128,
    "sasrec.dropout": 0.1,
    "sasrec.norm": "pre",
    "sasrec.feed_forward": 1,
    "sasrec.activation": "relu",
    "sasrec.low_pass": 0.0,
    "sasrec.samples": "sequences",
    "sasrec.loss": "bce",
    "sasrec.schedule": "constant",
    "sasrec.batch_size": 128,
    "sasrec.lr": 0.001,
    "sasrec.epochs": 200,
    "sasrec.patience": 200,
    "model.teacher": "sasrec",
    "model.d_prime": 128,
    "model.distill": True,
    "model.uniform": True,
    "model.distill_loss": "mse",
    "model.distill_normalize": False,
    "model.weights.retrieval": 1.0,
    "model.weights.cf_retrieval": 0.0,
    "model.weights.distill": 1.0,
    "model.weights.uniform": 1.0,
    "model.history": 10,
    "model.candidates": 4,
    "model.negatives": "own",
    "model.user_representation": False,
    "model.date_format": "YYYY/MM/DD",
    "model.head_hidden": 2048,
    "model.title_tokens": 1024,
    "model.max_tokens": 1024,
    "train.start": "scratch",
    "train.targets": "last",
    "train.batch_size": 20,
    "train.lr": 0.0001,
    "train.lr_decay": 0.95,
    "train.beta2": 0.98,
    "train.weight_decay": 0.0,
    "train.input_lr": 1.0,
    "train.epochs": 10,
    "train.evaluations_per_epoch": 10,
    "train.patience": 10,
    "train.monitor": "uni99/hr_10",
    "evaluate.validation_users": 10_000,
}

STRONG: Values = {  # what each is worth: docs/experiments.md
    "sasrec.heads": 1,
    "sasrec.dropout": 0.5,
    "sasrec.norm": "post",
    "sasrec.feed_forward": 4,
    "sasrec.activation": "gelu",
    "sasrec.low_pass": 0.7,
    "sasrec.samples": "prefixes",
    "sasrec.loss": "ce",
    "sasrec.batch_size": 256,
    "sasrec.lr": 0.001,
    "sasrec.schedule": "linear",
    "sasrec.epochs": 30,
}

WARM: Values = {  # beside `train.start`; chosen by `python -m benchmarks.warm` on the sample: docs/nightly.md
    "sasrec.epochs": 10,
    "train.lr_decay": 0.5,
    "train.epochs": 2,
    "train.evaluations_per_epoch": 2,
}

PRESETS: dict[str, Values] = {
    "paper/Movies": {**PAPER, "data.category": "Movies_and_TV", "data.user_fraction": 0.05},
    "paper/Scientific": {**PAPER, "data.category": "Industrial_and_Scientific", "data.user_fraction": 1.0},
    "paper/Electronics": {
        **PAPER,
        "data.category": "Electronics",
        "data.user_fraction": 0.05,
        "train.batch_size": 16,
    },
    "paper/CDs": {**PAPER, "data.category": "CDs_and_Vinyl", "data.user_fraction": 0.33},
    "teacher/strong": STRONG,
    "warm": WARM,
}


def overrides(name: str) -> str:
    """The preset as arguments of `dvc exp run`, on one line: `-S data.source=hub -S ...`.

    Raises:
        ParamsError: there is no such preset.
    """
    if name not in PRESETS:
        raise ParamsError(f"no preset {name!r}; there are {', '.join(PRESETS)}.")
    return " ".join(f"-S {key}={_plain(value)}" for key, value in PRESETS[name].items())


def _plain(value: str | int | float | bool) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
