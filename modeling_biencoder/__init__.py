"""Bi-encoders: any transformers backbone as a dense retriever."""

from transformers import AutoConfig, AutoModel

from .configuration_biencoder import BiEncoderConfig
from .encoding_biencoder import instruction_prompt
from .modeling_biencoder import BiEncoderModel, BiEncoderOutput
from .objectives_biencoder import Objectives

AutoConfig.register(BiEncoderConfig.model_type, BiEncoderConfig)
AutoModel.register(BiEncoderConfig, BiEncoderModel)

__all__ = ["BiEncoderConfig", "BiEncoderModel", "BiEncoderOutput", "Objectives", "instruction_prompt"]
