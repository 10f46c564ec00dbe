"""LLaRA (Llama2Vec, arXiv 2312.15503): adapt any decoder language model to text embedding, without labels."""

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForPreTraining

from .configuration_llara import LlaraConfig
from .modeling_llara import LlaraForPreTraining, LlaraOutput
from .prompts_llara import build_row

AutoConfig.register(LlaraConfig.model_type, LlaraConfig, exist_ok=True)
for _auto_class in (AutoModel, AutoModelForCausalLM, AutoModelForPreTraining):
    _auto_class.register(LlaraConfig, LlaraForPreTraining, exist_ok=True)

__all__ = ["LlaraConfig", "LlaraForPreTraining", "LlaraOutput", "build_row"]
