"""One vector for each item's text: the mean of a text encoder's last hidden states."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from llmsrec.engine.backbone import Backbone
from llmsrec.progress import Progress
from llmsrec.prompts.retrieval import plain_text_encoder, special_tokens

LONGEST = 128  # tokens of a text that are read; what follows is left out, and a shorter limit of the encoder counts
BATCH_TOKENS = 4_096


@torch.no_grad()
def text_vectors(encoder: Backbone, texts: Sequence[str], longest: int = LONGEST) -> Tensor:
    """The vectors of the texts of items 1, 2, ..., I.

    A text stands between the tokenizer's special tokens. The mean is over all of an encoder's positions, as of
    Sentence-BERT (Reimers & Gurevych, 2019, "mean" pooling). Of a causal model it is over the text's own tokens: the
    special token in front sees nothing, so its state, often a very large one, is the same for all texts.

    Texts of one length share a batch, so that nothing is padded; the result does not depend on the batches.

    Args:
        encoder: the configured backbone, or any other (`backbone.load`), a causal model or an encoder.
        texts: title of item 1, 2, ..., I, say.
        longest: tokens of a text that are read.

    Returns:
        `[I + 1, w]` float32 on the CPU; zeros in row 0 and for a text without any token.
    """
    begin, end = special_tokens(encoder.tokenizer)
    room = longest if encoder.limit is None else min(longest, encoder.limit - len(begin) - len(end))
    tokens = [text[:room] for text in plain_text_encoder(encoder.tokenizer)(texts)]
    lengths = np.array([0, *map(len, tokens)])
    table = encoder.model.get_input_embeddings()  # type: ignore[operator]
    vectors = torch.zeros(len(tokens) + 1, table.weight.shape[1])
    with Progress(len(tokens), unit="texts", label="text vectors", tokens=int(lengths.sum())) as progress:
        progress.add(int(np.count_nonzero(lengths[1:] == 0)))
        for length in np.unique(lengths[lengths > 0]).tolist():
            items = np.flatnonzero(lengths == length)
            rows = max(1, BATCH_TOKENS // length)
            for batch in np.split(items, range(rows, len(items), rows)):
                framed = torch.tensor([[*begin, *tokens[item - 1], *end] for item in batch])
                hidden = encoder.model(inputs_embeds=table(framed.to(table.weight.device))).last_hidden_state
                own = slice(len(begin), len(begin) + length) if encoder.causal else slice(None)
                vectors[torch.from_numpy(batch)] = hidden[:, own].float().mean(dim=1).cpu()
                progress.add(len(batch), len(batch) * length)
    return vectors
