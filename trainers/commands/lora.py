"""What the training commands are told of a LoRA that trains instead of the weights, and of quantised weights."""

from dataclasses import dataclass, field
from typing import Any

from peft import LoraConfig
from transformers import BitsAndBytesConfig

from ..jobs.idle import refuse_without
from ..models.quantization import check_quantization

COMPUTE_DTYPES = ("bfloat16", "float16", "float32")
QUANT_TYPES = ("nf4", "fp4")


@dataclass
class LoraArguments:
    """A LoRA to train instead of the weights: a new one by its rank, or one to go on with; else the weights train.

    Raises ValueError for values that do not go together, and for quantisation on a machine that has none.
    """

    lora_rank: int | None = field(default=None, metadata={"help": "Rank of the LoRA; none trains all weights."})
    lora_alpha: int = field(default=32, metadata={"help": "The LoRA's output is scaled by alpha / rank."})
    lora_dropout: float = field(default=0.0, metadata={"help": "Dropout before the LoRA."})
    lora_target_modules: list[str] | None = field(
        default=None, metadata={"help": "Names of the modules that get one; by default every linear layer."}
    )
    lora_modules_to_save: list[str] | None = field(
        default=None, metadata={"help": "Names of modules that train whole beside it and are saved with it."}
    )
    use_rslora: bool = field(default=False, metadata={"help": "Scale by alpha / sqrt(rank) (arXiv 2312.03732)."})
    use_dora: bool = field(default=False, metadata={"help": "Train magnitudes apart (arXiv 2402.09353)."})
    adapter: str | None = field(
        default=None, metadata={"help": "Folder or Hub id of an adapter to go on with, as it is configured."}
    )
    adapter_revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of its repo."})
    load_in_4bit: bool = field(default=False, metadata={"help": "Load the weights in 4 bits (QLoRA); needs CUDA."})
    load_in_8bit: bool = field(default=False, metadata={"help": "Load the weights in 8 bits; needs CUDA."})
    bnb_4bit_compute_dtype: str = field(
        default="bfloat16", metadata={"help": "Type that 4-bit weights compute in: bfloat16, float16 or float32."}
    )
    bnb_4bit_quant_type: str = field(default="nf4", metadata={"help": "Type of 4-bit weights: nf4 or fp4."})
    bnb_4bit_use_double_quant: bool = field(
        default=False, metadata={"help": "Quantise the 4-bit weights' scales too, to save 0.4 bits a weight."}
    )

    def __post_init__(self) -> None:
        if self.lora_rank is not None and self.lora_rank < 1:
            raise ValueError(f"lora_rank={self.lora_rank} must be at least 1: give a rank such as 16.")
        if self.lora_alpha <= 0:
            raise ValueError(f"lora_alpha={self.lora_alpha} must be at least 1: with less the LoRA does not train.")
        if not 0 <= self.lora_dropout < 1:
            raise ValueError(f"lora_dropout={self.lora_dropout} must be from 0 to less than 1: lower it.")
        if self.adapter is not None and (self.lora_rank is not None or self.use_dora or self.use_rslora):
            raise ValueError(
                f"adapter={self.adapter!r} brings its own configuration: leave out lora_rank, use_dora and use_rslora "
                "or merge the adapter first (lookback merge) and train a new one."
            )
        if self.adapter is None:
            refuse_without(self, "adapter", ["adapter_revision"], mark="")
        if self.lora_rank is None and (self.use_dora or self.use_rslora or self.lora_modules_to_save):
            raise ValueError(
                "lora_rank=None must be a rank where use_dora, use_rslora or lora_modules_to_save is given: give a "
                "lora_rank too, or leave them out."
            )
        if self.lora_rank is None:
            refuse_without(self, "lora_rank", ("lora_alpha", "lora_dropout", "lora_target_modules"), mark="")
        if not self.load_in_4bit:
            names = ("bnb_4bit_compute_dtype", "bnb_4bit_quant_type", "bnb_4bit_use_double_quant")
            refuse_without(self, "load_in_4bit", names, mark="")
        self._check_quantization()

    def _check_quantization(self) -> None:
        if not (self.load_in_4bit or self.load_in_8bit):
            return
        if self.load_in_4bit and self.load_in_8bit:
            raise ValueError("load_in_4bit=True and load_in_8bit=True exclude each other: choose one.")
        if self.lora_rank is None and self.adapter is None:
            raise ValueError(
                "lora_rank=None must be a rank, as quantised weights cannot train themselves: give one, or an adapter."
            )
        for name, choices in (("bnb_4bit_compute_dtype", COMPUTE_DTYPES), ("bnb_4bit_quant_type", QUANT_TYPES)):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name}={getattr(self, name)!r} must be one of {', '.join(choices)}: choose one.")
        check_quantization(4 if self.load_in_4bit else 8)

    def peft_config(self) -> LoraConfig | None:
        """The configuration of a new LoRA, None without a rank."""
        if self.lora_rank is None:
            return None
        return LoraConfig(
            r=self.lora_rank,
            lora_alpha=self.lora_alpha,
            lora_dropout=self.lora_dropout,
            target_modules=self.lora_target_modules,
            modules_to_save=self.lora_modules_to_save,
            use_rslora=self.use_rslora,
            use_dora=self.use_dora,
        )

    def loading_keywords(self) -> dict[str, Any]:
        """What the loading of the base model gets: `quantization_config`, where it is quantised."""
        if self.load_in_8bit:
            return {"quantization_config": BitsAndBytesConfig(load_in_8bit=True)}
        if not self.load_in_4bit:
            return {}
        config = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_compute_dtype=self.bnb_4bit_compute_dtype,
            bnb_4bit_quant_type=self.bnb_4bit_quant_type,
            bnb_4bit_use_double_quant=self.bnb_4bit_use_double_quant,
        )
        return {"quantization_config": config}
