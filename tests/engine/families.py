"""Families of language models, each as a tiny one with random weights: which cheaper passes are right with it.

    python -m tests.engine.families     # the table of docs/troubleshooting.md

`test_families.py` builds each, and asserts that what stands here is what is taken, and that vectors are right.
"""

from dataclasses import dataclass
from typing import Any

import transformers

SIZE = 320  # of the vocabulary
WIDE: dict[str, Any] = {"vocab_size": SIZE, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
HEADS = WIDE | {"num_attention_heads": 2}
LIKE_LLAMA = HEADS | {"num_key_value_heads": 2, "max_position_embeddings": 2048}
MOE = {"num_experts_per_tok": 1}
ENCODER = HEADS | {"max_position_embeddings": 1024}
LATENT = {"q_lora_rank": 8, "kv_lora_rank": 8, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8}
LINEAR = {
    "linear_num_value_heads": 2,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
}
GPT = {"vocab_size": SIZE, "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 1024}


GROUPS = {  # what is taken, how it is said, whether a position sees only what stands before it
    "layers": (
        {"padding", "trunk", "prefixes", "layers"},
        "the layers run as Llama's, shared trunk, item prefixes",
        True,
    ),
    "shared": ({"padding", "trunk", "prefixes"}, "shared trunk, item prefixes", True),
    "prefixes": ({"padding", "prefixes"}, "item prefixes; each history by itself", True),
    "plain": ({"padding"}, "whole prompts; each history by itself", True),
    "encoder": ({"padding"}, "whole prompts; each history by itself (an encoder)", False),
    "one length": (set(), "whole prompts in batches of one length (an encoder that mixes padding in)", False),
}


@dataclass(frozen=True)
class Family:
    """A family, or a variant of it.

    Attributes:
        name: as people call it.
        group: key of `GROUPS`, or "refused".
        model: its class in transformers, without `Model`.
        options: of its configuration.
        config: name of the configuration's class, if it is not the model's.
    """

    name: str
    group: str
    model: str
    options: dict[str, Any]
    config: str | None = None

    @property
    def passes(self) -> set[str]:
        """The cheaper passes that are right, as names of `LLMSRec`'s attributes; "layers" is its decoder."""
        return GROUPS[self.group][0]

    @property
    def causal(self) -> bool:
        return GROUPS[self.group][2]

    def make(self) -> Any:
        """The model, weights drawn from torch's global generator."""
        config = getattr(transformers, self.config or f"{self.model}Config")(**self.options)
        return getattr(transformers, f"{self.model}Model")(config)


FAMILIES = [
    Family("Llama", "layers", "Llama", LIKE_LLAMA),
    Family("Llama (grouped queries)", "layers", "Llama", LIKE_LLAMA | {"num_key_value_heads": 1}),
    Family("Mistral (no window)", "layers", "Mistral", LIKE_LLAMA | {"sliding_window": None}),
    Family("Mixtral", "layers", "Mixtral", LIKE_LLAMA | MOE | {"num_local_experts": 2}),
    Family("Qwen 2", "layers", "Qwen2", LIKE_LLAMA),
    Family(
        "Qwen 2 MoE",
        "layers",
        "Qwen2Moe",
        LIKE_LLAMA | MOE | {"num_experts": 2, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16},
    ),
    Family("Gemma", "layers", "Gemma", LIKE_LLAMA | {"head_dim": 16}),
    Family("Phi MoE", "layers", "Phimoe", LIKE_LLAMA | MOE | {"num_local_experts": 2}),
    Family("OLMo", "layers", "Olmo", LIKE_LLAMA),
    Family("StarCoder 2", "layers", "Starcoder2", LIKE_LLAMA),
    Family("Seed-OSS", "layers", "SeedOss", LIKE_LLAMA | {"head_dim": 16}),
    Family("Qwen 3", "shared", "Qwen3", LIKE_LLAMA | {"head_dim": 16}),
    Family(
        "Qwen 3 MoE",
        "shared",
        "Qwen3Moe",
        LIKE_LLAMA | MOE | {"head_dim": 16, "num_experts": 2, "moe_intermediate_size": 16},
    ),
    Family("Gemma 3 (window of 4,096)", "shared", "Gemma3Text", LIKE_LLAMA | {"head_dim": 16, "sliding_window": 4096}),
    Family("Phi", "shared", "Phi", LIKE_LLAMA),
    Family("Phi 3 (no window)", "shared", "Phi3", LIKE_LLAMA | {"pad_token_id": 0}),
    Family("GPT-2", "shared", "GPT2", GPT),
    Family("GPT-NeoX", "shared", "GPTNeoX", HEADS),
    Family("GPT-J", "shared", "GPTJ", GPT | {"rotary_dim": 8}),
    Family("GPT-BigCode", "shared", "GPTBigCode", GPT),
    Family("CodeGen", "shared", "CodeGen", GPT | {"rotary_dim": 4, "n_head": 4}),
    Family(
        "OPT",
        "shared",
        "OPT",
        {
            "vocab_size": SIZE,
            "hidden_size": 32,
            "word_embed_proj_dim": 32,
            "ffn_dim": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
        },
    ),
    Family("Falcon (rotary)", "shared", "Falcon", HEADS | {"alibi": False}),
    Family("StableLM", "shared", "StableLm", LIKE_LLAMA),
    Family("GLM", "shared", "Glm", LIKE_LLAMA | {"head_dim": 16, "pad_token_id": 0}),
    Family("GLM 4", "shared", "Glm4", LIKE_LLAMA | {"head_dim": 16, "pad_token_id": 0}),
    Family("Cohere", "shared", "Cohere", LIKE_LLAMA),
    Family("OLMo 2", "shared", "Olmo2", LIKE_LLAMA),
    Family("SmolLM 3", "shared", "SmolLM3", LIKE_LLAMA | {"pad_token_id": 0, "num_hidden_layers": 4}),
    Family(
        "Granite",
        "shared",
        "Granite",
        LIKE_LLAMA | {"attention_multiplier": 0.3, "residual_multiplier": 0.5, "embedding_multiplier": 6.0},
    ),
    Family("Nemotron", "shared", "Nemotron", LIKE_LLAMA),
    Family("Persimmon", "shared", "Persimmon", HEADS),
    Family("Helium", "shared", "Helium", LIKE_LLAMA | {"head_dim": 16}),
    Family(
        "DeepSeek V2",
        "shared",
        "DeepseekV2",
        LIKE_LLAMA
        | MOE
        | LATENT
        | {"n_routed_experts": 2, "n_group": 1, "topk_group": 1, "moe_intermediate_size": 16, "head_dim": 8},
    ),
    Family(
        "DeepSeek V3",
        "shared",
        "DeepseekV3",
        LIKE_LLAMA
        | MOE
        | LATENT
        | {
            "n_routed_experts": 2,
            "n_group": 1,
            "topk_group": 1,
            "moe_intermediate_size": 16,
            "first_k_dense_replace": 1,
        },
    ),
    Family("BioGPT", "shared", "BioGpt", ENCODER),
    Family(
        "XGLM",
        "shared",
        "XGLM",
        {"vocab_size": SIZE, "d_model": 32, "ffn_dim": 48, "num_layers": 2, "attention_heads": 2},
    ),
    Family("BLOOM", "prefixes", "Bloom", {"vocab_size": SIZE, "hidden_size": 32, "n_layer": 2, "n_head": 2}),
    Family("Falcon (ALiBi)", "prefixes", "Falcon", HEADS | {"alibi": True}),
    Family("Mistral (window of 64)", "plain", "Mistral", LIKE_LLAMA | {"sliding_window": 64}),
    Family("Mistral (window of 16)", "plain", "Mistral", LIKE_LLAMA | {"sliding_window": 16}),
    Family(
        "Qwen 3 Next",
        "plain",
        "Qwen3Next",
        LIKE_LLAMA
        | MOE
        | LINEAR
        | {
            "head_dim": 16,
            "num_experts": 2,
            "moe_intermediate_size": 16,
            "shared_expert_intermediate_size": 16,
            "layer_types": ["linear_attention", "full_attention"],
        },
    ),
    Family(
        "Qwen 3.5",
        "plain",
        "Qwen3_5Text",
        LIKE_LLAMA | LINEAR | {"head_dim": 16, "layer_types": ["linear_attention", "full_attention"]},
    ),
    Family("Gemma 2 (window of 64)", "plain", "Gemma2", LIKE_LLAMA | {"head_dim": 16, "sliding_window": 64}),
    Family("Gemma 3 (window of 64)", "plain", "Gemma3Text", LIKE_LLAMA | {"head_dim": 16, "sliding_window": 64}),
    Family("Phi 3 (window of 64)", "plain", "Phi3", LIKE_LLAMA | {"pad_token_id": 0, "sliding_window": 64}),
    Family(
        "GPT-Neo (window of 64)",
        "plain",
        "GPTNeo",
        {
            "vocab_size": SIZE,
            "hidden_size": 32,
            "num_layers": 2,
            "num_heads": 2,
            "attention_types": [[["global", "local"], 1]],
            "window_size": 64,
        },
    ),
    Family(
        "gpt-oss (window of 64)",
        "plain",
        "GptOss",
        LIKE_LLAMA | MOE | {"head_dim": 16, "num_local_experts": 2, "sliding_window": 64},
    ),
    Family("Falcon Mamba", "plain", "FalconMamba", WIDE | {"state_size": 8}),
    Family(
        "Falcon H1",
        "plain",
        "FalconH1",
        LIKE_LLAMA
        | {"mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_n_groups": 1, "mamba_d_state": 8},
    ),
    Family(
        "MPT", "plain", "Mpt", {"vocab_size": SIZE, "d_model": 32, "n_heads": 2, "n_layers": 2, "max_seq_len": 1024}
    ),
    Family("Cohere 2 (window of 64)", "plain", "Cohere2", LIKE_LLAMA | {"sliding_window": 64}),
    Family("OLMo 3 (window of 64)", "plain", "Olmo3", LIKE_LLAMA | {"sliding_window": 64}),
    Family(
        "Granite MoE hybrid",
        "plain",
        "GraniteMoeHybrid",
        LIKE_LLAMA
        | MOE
        | {
            "num_local_experts": 2,
            "shared_intermediate_size": 16,
            "mamba_n_heads": 4,
            "mamba_d_head": 16,
            "mamba_d_state": 8,
            "layer_types": ["mamba", "attention"],
        },
    ),
    Family("EXAONE 4", "plain", "Exaone4", LIKE_LLAMA | {"sliding_window": 64}),
    Family("LFM 2", "plain", "Lfm2", LIKE_LLAMA | {"layer_types": ["conv", "full_attention"]}),
    Family("Mamba", "plain", "Mamba", WIDE | {"state_size": 8}),
    Family(
        "Mamba 2",
        "plain",
        "Mamba2",
        WIDE | {"state_size": 8, "num_heads": 8, "head_dim": 8, "n_groups": 1, "chunk_size": 32},
    ),
    Family(
        "RecurrentGemma",
        "plain",
        "RecurrentGemma",
        HEADS | {"lru_width": 32, "attention_window_size": 64, "block_types": ["recurrent", "attention"]},
    ),
    Family(
        "Jamba",
        "plain",
        "Jamba",
        LIKE_LLAMA
        | MOE
        | {
            "num_experts": 2,
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
            "mamba_d_state": 8,
            "use_mamba_kernels": False,
        },
    ),
    Family(
        "Zamba 2",
        "plain",
        "Zamba2",
        LIKE_LLAMA
        | {
            "mamba_d_state": 8,
            "mamba_headdim": 8,
            "n_mamba_heads": 8,
            "chunk_size": 32,
            "layers_block_type": ["mamba", "hybrid"],
            "hybrid_layer_ids": [1],
            "attention_head_dim": 32,
        },
    ),
    Family(
        "Bamba",
        "plain",
        "Bamba",
        LIKE_LLAMA
        | {
            "mamba_n_heads": 8,
            "mamba_d_head": 8,
            "mamba_n_groups": 1,
            "mamba_d_state": 8,
            "attn_layer_indices": [1],
            "mamba_chunk_size": 32,
        },
    ),
    Family(
        "RWKV", "plain", "Rwkv", {"vocab_size": SIZE, "hidden_size": 32, "num_hidden_layers": 2, "context_length": 1024}
    ),
    Family("BERT", "encoder", "Bert", ENCODER),
    Family("RoBERTa", "encoder", "Roberta", ENCODER),
    Family("XLM-RoBERTa", "encoder", "XLMRoberta", ENCODER),
    Family(
        "DistilBERT",
        "encoder",
        "DistilBert",
        {"vocab_size": SIZE, "dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 48, "max_position_embeddings": 1024},
    ),
    Family("ALBERT", "encoder", "Albert", ENCODER | {"embedding_size": 32}),
    Family("DeBERTa", "encoder", "Deberta", ENCODER | {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]}),
    Family(
        "DeBERTa v2", "encoder", "DebertaV2", ENCODER | {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]}
    ),
    Family("ELECTRA", "encoder", "Electra", ENCODER | {"embedding_size": 32}),
    Family("MPNet", "encoder", "MPNet", ENCODER),
    Family(
        "ModernBERT (window of 64)",
        "encoder",
        "ModernBert",
        HEADS
        | {
            "local_attention": 64,
            "pad_token_id": 0,
            "bos_token_id": 0,
            "eos_token_id": 1,
            "cls_token_id": 0,
            "sep_token_id": 1,
        },
    ),
    Family("NomicBERT", "encoder", "NomicBert", ENCODER),
    Family("EuroBERT", "encoder", "EuroBert", LIKE_LLAMA | {"pad_token_id": 0}),
    Family("Longformer", "encoder", "Longformer", ENCODER | {"attention_window": 64}),
    Family("BigBird", "encoder", "BigBird", ENCODER | {"block_size": 16}),
    Family("RoFormer", "encoder", "RoFormer", ENCODER),
    Family("RemBERT", "encoder", "RemBert", ENCODER | {"input_embedding_size": 32}),
    Family("SqueezeBERT", "encoder", "SqueezeBert", ENCODER | {"embedding_size": 32}),
    Family("XLNet", "encoder", "XLNet", {"vocab_size": SIZE, "d_model": 32, "n_layer": 2, "n_head": 2, "d_inner": 48}),
    Family("ConvBERT", "one length", "ConvBert", ENCODER | {"embedding_size": 32}),
    Family("FNet", "one length", "FNet", WIDE | {"max_position_embeddings": 1024}),
    Family(
        "Nyströmformer", "one length", "Nystromformer", ENCODER | {"num_landmarks": 16, "segment_means_seq_len": 16}
    ),
    Family("YOSO", "one length", "Yoso", ENCODER),
    Family(
        "Funnel",
        "one length",
        "Funnel",
        {
            "vocab_size": SIZE,
            "d_model": 32,
            "d_head": 16,
            "n_head": 2,
            "d_inner": 48,
            "block_sizes": [1, 1],
            "num_decoder_layers": 1,
        },
    ),
]
REFUSED = [
    Family("ELECTRA (narrow embeddings)", "refused", "Electra", ENCODER | {"embedding_size": 16}),
    Family(
        "Reformer",
        "refused",
        "Reformer",
        {
            "vocab_size": SIZE,
            "hidden_size": 32,
            "feed_forward_size": 48,
            "attn_layers": ["local", "lsh"],
            "num_attention_heads": 2,
            "attention_head_size": 16,
            "axial_pos_shape": [32, 32],
            "axial_pos_embds_dim": [16, 16],
            "is_decoder": True,
        },
    ),
    Family(
        "T5",
        "refused",
        "T5",
        {"vocab_size": SIZE, "d_model": 32, "d_kv": 16, "d_ff": 48, "num_layers": 2, "num_heads": 2},
    ),
    Family(
        "BART",
        "refused",
        "Bart",
        {
            "vocab_size": SIZE,
            "d_model": 32,
            "encoder_layers": 1,
            "decoder_layers": 1,
            "encoder_attention_heads": 2,
            "decoder_attention_heads": 2,
            "encoder_ffn_dim": 48,
            "decoder_ffn_dim": 48,
        },
    ),
    Family("GPT-2 (an embedding of 200 rows)", "refused", "GPT2", GPT | {"vocab_size": 200}),
]


def table() -> str:
    """Markdown: which families take which passes."""
    rows = [
        f"| {said} | {', '.join(f.name for f in FAMILIES if f.group == group)} |"
        for group, (_, said, _) in GROUPS.items()
    ]
    refused = f"| refused in one line | {', '.join(family.name for family in REFUSED)} |"
    return "\n".join(["| what is taken | families |", "|---|---|", *rows, refused])


if __name__ == "__main__":
    print(table())
