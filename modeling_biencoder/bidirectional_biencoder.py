"""Which backbones see both ways where `bidirectional=True` asks for it.

transformers reads `config.is_causal=False` where it makes the attention mask, but not every family's code goes through
there: some stay causal without a word (GPT-Neo, the recurrent ones), StableLM and Nemotron do so only where nothing is
padded, MPT fails. So the families are named here, each verified by tests/test_biencoder_bidirectional.py: a later
token changes an earlier state, and padding is never seen.
"""

from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

# By `config.model_type`. Bloom, CodeGen, Gemma 2, GPT-J, gpt-oss and XGLM run under eager attention alone.
BIDIRECTIONAL_DECODERS = (
    "apertus", "arcee", "biogpt", "bitnet", "bloom", "codegen", "cohere", "cohere2", "deepseek_v3", "diffllama",
    "doge", "ernie4_5", "exaone4", "falcon", "gemma", "gemma2", "gemma3_text", "glm", "glm4", "gpt2", "gpt_bigcode",
    "gpt_neox", "gpt_oss", "gptj", "granite", "granitemoe", "llama", "ministral3", "mistral", "mixtral", "nanochat",
    "olmo", "olmo2", "olmo3", "olmoe", "opt", "persimmon", "phi", "phi3", "phimoe", "qwen2", "qwen2_moe", "qwen3",
    "qwen3_moe", "seed_oss", "smollm3", "starcoder2", "xglm",
)  # fmt: skip


def check_bidirectional(model_type: str) -> None:
    """ValueError for a decoder that `bidirectional=True` is not known to open; encoders are bidirectional already."""
    if model_type not in BIDIRECTIONAL_DECODERS and model_type not in MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        raise ValueError(
            f"bidirectional=True is not known to take effect on a {model_type!r} backbone, which might silently stay "
            f"causal: leave it False, or use a backbone of one of {', '.join(BIDIRECTIONAL_DECODERS)}."
        )
