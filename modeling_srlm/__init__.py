"""SelfRetrievalLM: a language model that retrieves from its own past."""

from transformers import AutoConfig, AutoModelForCausalLM

from .configuration_srlm import SelfRetrievalConfig
from .modeling_srlm import SelfRetrievalLM, SelfRetrievalOutput

AutoConfig.register("lookback_srlm", SelfRetrievalConfig)
AutoModelForCausalLM.register(SelfRetrievalConfig, SelfRetrievalLM)

__all__ = ["SelfRetrievalConfig", "SelfRetrievalLM", "SelfRetrievalOutput"]
