"""The language model as a reader of histories: prompt, backbone, [UserOut], f_user. Only this needs torch to serve."""

from functools import partial

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import pad

from llmsrec.engine import backbone as backbones
from llmsrec.engine.kept import Kept
from llmsrec.engine.readout import read_out, read_out_by_length
from llmsrec.engine.shortcuts import right_decoder, runs_whole
from llmsrec.engine.yardstick import ReadOut, Yardstick
from llmsrec.errors import DataError
from llmsrec.prompts.retrieval import Prompts, PromptSettings
from llmsrec.serving.bundle import Bundle
from llmsrec.serving.towers import History, Teacher

ITEMS = 64  # prompts of items at once


class LLMTower:
    """The prompt of Table 2 through the frozen backbone, and f_user on ONNX Runtime.

    Raises:
        DataError: the backbone cannot be had (see `llmsrec.engine.backbone.load`), or the adapter is not its own.
    """

    def __init__(self, bundle: Bundle) -> None:
        config = bundle.config
        backbone = backbones.load(
            bundle.folder / "backbone", config["backbone"]["dtype"], config["backbone"]["quantization"]
        )
        if config["backbone"]["lora_rank"]:
            backbone = backbones.tuned(backbone, config["backbone"], seed=0)
            _load_adapter(backbone.model, bundle)
        self._model = backbone.model.requires_grad_(False).eval()
        settings = PromptSettings(**config["prompts"])
        self._prompts_of = partial(Prompts, backbone.tokenizer, settings=settings, limit=backbone.limit)
        self._prompts = self._prompts_of(titles=bundle.items["title"].to_list())
        self._device = self._model.get_input_embeddings().weight.device  # type: ignore[operator]
        self._trained = bundle.trained
        f_item_input = bundle.models["f_I"]
        parts = np.array_split(bundle.tensors["item_embeddings"], 1 + bundle.trained // 1024)
        inputs = self._tensor(np.concatenate([f_item_input(part) for part in parts]))
        # Zeros stand for what no teacher has, the embeddings of items that were added by title (docs/experiments.md).
        self._item_inputs = pad(inputs, (0, 0, 0, len(bundle.items) - bundle.trained))
        self._user_out, self._item_out = (self._tensor(bundle.tensors[name]) for name in ("user_out", "item_out"))
        self._f_user, self._f_item = bundle.models["f_user"], bundle.models["f_item"]
        self._explicit = settings.user_representation
        if self._explicit:
            self._teacher, self._f_U = Teacher(bundle), bundle.models["f_U"]
        user_inputs = self._some_user_inputs if self._explicit else None
        self._yardstick = Yardstick(
            self._model, self._prompts, self._item_inputs.__getitem__, self._user_out, user_inputs, self._item_out
        )
        padding, tuned = self._yardstick.padding(), config["backbone"]["lora_rank"] > 0
        self._read_out: ReadOut = partial(read_out if padding else read_out_by_length, self._model)
        self._decoder = None
        if padding and not runs_whole(self._model, backbone.causal, tuned):
            self._decoder = right_decoder(self._yardstick, shared=False)
        if self._decoder:
            self._read_out = self._decoder.read_out
        self.kept: Kept | None = None

    def keep(self, limit: int) -> None:
        """From now on keep keys and values of users' prompts, up to so many bytes, if vectors are the same with them.

        It does nothing where prompts begin with the user's own vector (Table 2 (c)), and have nothing in common.
        """
        if self._decoder is None or self._explicit or not limit:
            return
        yardstick = self._yardstick
        tried = Kept(self._decoder, yardstick.item_inputs, self._user_out, limit=1 << 40)

        def coming_back() -> Tensor:
            rows = range(len(yardstick.histories))
            prompts = [self._prompts.users(yardstick.histories[k : k + 1], yardstick.times[k : k + 1]) for k in rows]
            return torch.cat([tried.read_out(prompt) for prompt in prompts])

        plain = yardstick.plain[: len(yardstick.histories)]
        if yardstick.right(coming_back, plain, "users' prompts are not kept: with them,"):
            self.kept = Kept(self._decoder, self._item_inputs.__getitem__, self._user_out, limit)

    @torch.no_grad()
    def vectors(self, histories: list[History]) -> np.ndarray:
        """`[B, d']` float32 of `B` histories with one item at least."""
        prompts = self._prompts.users([h.items for h in histories], [h.timestamps for h in histories])
        if self.kept:
            hidden = self.kept.read_out(prompts)
        else:
            seen = self._user_inputs(histories) if self._explicit else None
            hidden = self._read_out(prompts, self._item_inputs.__getitem__, self._user_out, seen)
        return self._f_user(hidden.cpu().numpy())

    def of_items(self, items: np.ndarray) -> np.ndarray:
        """`[n, d']` float32, what item prompts and f_item make of items of the catalogue."""
        return self._of_items(self._prompts, items, self._item_inputs)

    def of_titles(self, titles: list[str], inputs: Tensor | None = None) -> np.ndarray:
        """`[n, d']` float32, the vectors of items with these titles that training never saw.

        Args:
            inputs: `[n, d_llm]` what stands for f_I of their item embeddings; zeros if None.
        """
        inputs = self._item_inputs.new_zeros(len(titles), self._item_inputs.shape[1]) if inputs is None else inputs
        prompts = self._prompts_of(titles=titles)
        return self._of_items(prompts, np.arange(1, len(titles) + 1), pad(inputs, (0, 0, 1, 0)))

    @torch.no_grad()
    def _of_items(self, prompts: Prompts, items: np.ndarray, inputs: Tensor) -> np.ndarray:
        vectors = []
        for rows in np.array_split(items, -(-len(items) // ITEMS)):
            hidden = self._read_out(prompts.items(rows), inputs.__getitem__, self._item_out, None)
            vectors.append(self._f_item(hidden.cpu().numpy()))
        return np.concatenate(vectors)

    def lengths(self, histories: list[History]) -> np.ndarray:
        """`[B]` about how many tokens each prompt has, for putting prompts of like length together."""
        return self._prompts.user_lengths([h.items for h in histories])

    def _user_inputs(self, histories: list[History]) -> Tensor:
        """f_U(O_u): `[B, d_llm]`."""
        return self._tensor(self._f_U(self._teacher.vectors(histories)))

    def _some_user_inputs(self, count: int) -> Tensor:
        numbers = np.arange(count) % self._trained + 1
        return self._user_inputs([History(np.array([item]), np.array([0]), []) for item in numbers])

    def _tensor(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(values).to(self._device)


def _load_adapter(model: torch.nn.Module, bundle: Bundle) -> None:
    """Copy the bundle's LoRA tensors into a backbone that has just been given adapters."""
    path = bundle.folder / "adapter.safetensors"
    tensors = load_file(path)
    adapters = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if tensors.keys() != adapters.keys():
        raise DataError(
            f"{path} does not fit the backbone: {sorted(tensors.keys() ^ adapters.keys())[:3]}; export again."
        )
    with torch.no_grad():
        for name, tensor in tensors.items():
            adapters[name].copy_(tensor)
