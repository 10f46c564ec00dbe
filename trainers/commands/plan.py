"""`lookback plan`: what a training, an index or a reading of long texts takes, before there is anything to run it on.

Parameters, memory of each device, operations, hours, and what to lower where it does not fit; from the model's
configuration alone, no weights are read. What its figures are checked against: docs/scaling.md.
"""

import json
from dataclasses import dataclass, field

from ..planning.plan import as_json, make_plan
from ..planning.settings import PlannedMachines, PlannedModel, PlannedTexts, PlannedTraining
from ..planning.table import table
from .loading import LoadingArguments
from .parsing import parse_arguments


@dataclass
class PlanOutput:
    """What is printed."""

    json: bool = field(default=False, metadata={"help": "Print one JSON object of plain numbers, not a table."})


ARGUMENTS = (PlannedModel, LoadingArguments, PlannedTexts, PlannedTraining, PlannedMachines, PlanOutput)
EXAMPLES = r"""
# does a LoRA on a bi-encoder fit, and how long does it take on eight devices?
lookback plan --model Qwen/Qwen3-0.6B --system biencoder --lora_rank 16 --bf16 --rows 1M --gpus 8
# all weights of a 7B model from its config.json, shared out; and an index of 10M passages
lookback plan --model config.json --system biencoder --bf16 --gpus 64 --sharding fsdp --passages 10M
# the states that a text of a million tokens leaves
lookback plan --model folder --system srlm --reuse_states --document_length 1000000 --store_dtype int8
"""


def main(argv: list[str]) -> None:
    """Prints the plan."""
    model, loading, texts, training, machines, output = parse_arguments(argv, ARGUMENTS, "plan", __doc__)
    plan = make_plan(model, machines, training, texts, loading.keywords())
    print(json.dumps(as_json(plan), indent=1) if output.json else table(plan))
