"""What systems/{tallrec,llara,collm,a_llmrec}.yaml say: how a system differs from LLM-SRec, in either form."""

from typing import Any, Literal, TypeVar

from pydantic import Field, ValidationError, model_validator

from llmsrec.engine.encoder import Encoder
from llmsrec.engine.lora import LoraTargets
from llmsrec.errors import ParamsError, in_words
from llmsrec.params import Model, Section, Train

Changed = TypeVar("Changed", Model, Train)


class Lora(Section):
    """Adapters of the language model; see `lora.add_lora`."""

    rank: int = Field(ge=1)
    alpha: int = Field(ge=1)
    targets: LoraTargets


class Instead(Section):
    """Values instead of those of params.yaml's `model` and `train`."""

    model: dict[str, Any] = Field(default_factory=dict)
    train: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def keys_are_known(self) -> "Instead":
        unknown = [f"model.{key}" for key in self.model.keys() - Model.model_fields.keys()]
        unknown += [f"train.{key}" for key in self.train.keys() - Train.model_fields.keys()]
        if unknown:
            raise ValueError(f"params.yaml has no {' and no '.join(sorted(unknown))}")
        return self


class Alignment(Section):
    """Weights of the losses of A-LLMRec's stage 1; the authors' are 1, .5, .2 and 1."""

    matching: float = Field(ge=0)
    item_reconstruction: float = Field(ge=0)
    text_reconstruction: float = Field(ge=0)
    recommendation: float = Field(ge=0)


class Stage1(Section):
    """A-LLMRec's stage 1; see `models.llm.allmrec`.

    Attributes:
        encoder: of the titles; it stays as it is.
        text_tokens: a longer title is cut.
        code: width of the items' codes.
        cold: an item with at most so many training events has its text's code.
        train: what differs from params.yaml's `train`.
    """

    encoder: Encoder
    text_tokens: int = Field(ge=1)
    code: int = Field(ge=1)
    cold: int = Field(ge=0)
    weights: Alignment
    train: dict[str, Any]

    @model_validator(mode="after")
    def keys_are_known(self) -> "Stage1":
        Instead(train=self.train)
        return self


class LLMSettings(Section):
    """A system around a language model.

    Attributes:
        item_embedding, user_representation: what prompts hold, see `prompts.PromptSettings`.
        lora: None where the language model stays frozen.
        schedule: `joint`: all at once, the paper's setting. `curriculum` (LLaRA): a step's prompts hold embeddings by
            a chance that grows from 0 to 1. `two_steps` (CoLLM): adapters, heads and tokens on prompts of text alone,
            then f_I and f_U alone on whole prompts.
        retrieval, titles: what differs from params.yaml in each form.
    """

    item_embedding: bool
    user_representation: bool
    lora: Lora | None
    schedule: Literal["joint", "curriculum", "two_steps"]
    retrieval: Instead = Instead()
    titles: Instead = Instead()

    @model_validator(mode="after")
    def schedule_has_what_it_needs(self) -> "LLMSettings":
        if self.schedule != "joint" and not self.item_embedding:
            raise ValueError(f"schedule {self.schedule} is about item embeddings, but item_embedding is false")
        return self

    def loading(self, dtype: str, quantization: str) -> dict[str, Any]:
        """How the language model is loaded, as `lora.tuned` takes it."""
        adapters: dict[str, Any] = {"lora_rank": 0}
        if self.lora is not None:
            adapters = {f"lora_{key}": value for key, value in self.lora.model_dump().items()}
        return {"dtype": dtype, "quantization": quantization} | adapters


class ALLMRecSettings(LLMSettings):
    """A-LLMRec: f_I reads the codes of its stage 1."""

    stage1: Stage1


# system -> the type of its file
SETTINGS = {"tallrec": LLMSettings, "llara": LLMSettings, "collm": LLMSettings, "a_llmrec": ALLMRecSettings}


def changed(section: Changed, values: dict[str, Any], where: str) -> Changed:
    """A section of params.yaml with other values.

    Raises:
        ParamsError: one of them is none that the key may have; `where` names the file.
    """
    try:
        return type(section).model_validate(section.model_dump() | values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise ParamsError(f"{where}: `{key}` is {first['input']!r}: {in_words(first)}.") from error
