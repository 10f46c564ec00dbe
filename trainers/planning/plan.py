"""The plan of a use of a model on some machines: parameters, memory, operations, hours, index, and what fits."""

import math
from collections import Counter
from dataclasses import asdict, dataclass
from tempfile import TemporaryDirectory
from typing import Any

import torch
from transformers import TrainingArguments

from ..retrieval.quantization import DTYPES, PRECISIONS, stored_width
from .activations import activation_bytes
from .build import body_of, build_planned, has_plain_head, text_config_of
from .contentless import layers_of
from .flops import Operations, operations_of
from .memory import Memory, bytes_of_tensors, optimizer_bytes, trained, weight_bytes
from .settings import PEAK_TFLOPS, PlannedMachines, PlannedModel, PlannedTexts, PlannedTraining
from .shapes import SHAPES, Rows, Shapes
from .states import store_bytes

RESERVE = 0.1  # of a device's memory, for kernels' own, the allocator's gaps and what other processes hold


@dataclass(frozen=True)
class Plan:
    """What was asked for, and what it takes."""

    model: PlannedModel
    machines: PlannedMachines
    training: PlannedTraining
    texts: PlannedTexts
    kind: str  # of the backbone
    parameters: dict[str, int]
    shapes: Shapes
    memory: Memory  # of a device, before anything is shared out
    held: Memory  # the same as it is shared out
    operations: Operations
    operations_a_batch: float  # a device's, forward and backward
    layer_bytes: int  # of weights, which `fsdp` brings together one at a time
    store: dict[str, float]
    index: dict[str, int]
    passage_length: int

    @property
    def rows_a_step(self) -> int:
        """Of all devices."""
        training = self.training
        return training.per_device_train_batch_size * training.gradient_accumulation_steps * self.machines.gpus

    @property
    def steps(self) -> int | None:
        """Of the whole training."""
        rows = self.training.num_rows
        return None if rows is None else math.ceil(rows * self.training.num_train_epochs / self.rows_a_step)

    @property
    def speed(self) -> float:
        """Operations a second of one device."""
        return self.peak_tflops * 1e12 * self.machines.utilization

    @property
    def peak_tflops(self) -> float:
        """Of one device, in the type that it computes in."""
        kind = "bfloat16" if self.training.bf16 else self.model.dtype
        return self.machines.peak_tflops or PEAK_TFLOPS[kind]

    @property
    def seconds_a_step(self) -> float:
        return self.operations_a_batch * self.training.gradient_accumulation_steps / self.speed

    @property
    def total(self) -> int:
        """Bytes of one device in training."""
        return self.held.together + (2 * self.layer_bytes if self.machines.sharding == "fsdp" else 0)

    @property
    def fits(self) -> bool | None:
        """None where what is known fits, and something is not known."""
        known = self.held.optimizer is not None and self.held.activations is not None
        return False if self.total > self.room else True if known else None

    @property
    def room(self) -> int:
        """Bytes of one device that a plan may count on."""
        return round(self.machines.memory * (1 - RESERVE))

    @property
    def seconds_of_encoding(self) -> float | None:
        """To embed all passages on all devices."""
        if self.texts.num_passages is None:
            return None
        one = self.operations.forward((Rows("passage", 1, self.passage_length),))
        return self.texts.num_passages * one / (self.speed * self.machines.gpus)


def make_plan(
    asked: PlannedModel,
    machines: PlannedMachines,
    training: PlannedTraining,
    texts: PlannedTexts,
    place: dict[str, Any],
) -> Plan:
    """The plan; ValueError or OSError for a model that there is not, or settings that do not fit it."""
    texts.check_system(asked.system)
    model = build_planned(asked, texts, place)
    config = model.config
    shapes = SHAPES[asked.system](config, training, texts)
    _check_positions(model, shapes)
    operations, parameters = operations_of(model), trained(model)
    memory = Memory(
        weights=weight_bytes(model),
        gradients=bytes_of_tensors(parameters),
        optimizer=_optimizer(training.optim, model, parameters),
        activations=None
        if texts.reuse_states
        else activation_bytes(
            model, shapes, training.bf16, training.gradient_checkpointing, machines.gpus, machines.sharding != "fsdp"
        ),
    )
    again = asked.system == "llara" and not has_plain_head(model, training.bf16)
    return Plan(
        asked, machines, training, texts, text_config_of(model).model_type, _parts(model), shapes, memory,
        held=_shared(memory, machines), operations=operations,
        operations_a_batch=operations.step(shapes, training.gradient_checkpointing, machines.gpus, again),
        layer_bytes=layer_bytes(model),
        store=_store(model, texts) if texts.reuse_states else {},
        index={} if texts.num_passages is None else index_bytes(_width(model, texts), texts.num_passages),
        passage_length=shapes.rows[-1].length,  # of a biencoder, which alone has an index
    )  # fmt: skip


def index_bytes(width: int, passages: int) -> dict[str, int]:
    """Bytes of the numbers of an index by precision, of so many passages; their ids are beside it."""
    return {
        precision: passages * stored_width(width, precision) * torch.empty((), dtype=DTYPES[precision]).element_size()
        for precision in PRECISIONS
    }


def layer_bytes(model: Any) -> int:
    """Bytes of the largest layer's weights, all experts' included."""
    body = body_of(model)
    layers = layers_of(body) or [body]  # ALBERT has one for all
    return max(bytes_of_tensors(one.parameters()) for one in layers)


def as_json(plan: Plan) -> dict[str, Any]:
    """The plan as plain numbers; bytes, operations, seconds."""
    held = {**asdict(plan.held), "together": plan.total}
    return {
        "model": plan.model.model, "system": plan.model.system, "kind": plan.kind, "parameters": plan.parameters,
        "memory": {**asdict(plan.memory), "together": plan.memory.together},
        "memory_of_each": held, "memory_there": plan.machines.memory, "fits": plan.fits,
        "rows_a_step": plan.rows_a_step, "tokens_a_step": tokens_a_step(plan), "steps": plan.steps,
        "flops_a_step": flops_a_step(plan), "flops_a_token": flops_a_step(plan) / tokens_a_step(plan),
        "seconds_a_step": plan.seconds_a_step,
        "hours": None if plan.steps is None else plan.steps * plan.seconds_a_step / 3600,
        "store": plan.store, "index": plan.index,
        "hours_of_encoding": None if plan.seconds_of_encoding is None else plan.seconds_of_encoding / 3600,
    }  # fmt: skip


def tokens_a_step(plan: Plan) -> int:
    """Of all devices, as they go through the backbone."""
    return plan.shapes.tokens * plan.training.gradient_accumulation_steps * plan.machines.gpus


def flops_a_step(plan: Plan) -> float:
    """Of all devices."""
    return plan.operations_a_batch * plan.training.gradient_accumulation_steps * plan.machines.gpus


def _check_positions(model: Any, shapes: Shapes) -> None:
    positions = vars(text_config_of(model)).get("max_position_embeddings")
    if positions is not None and shapes.longest > positions:
        raise ValueError(
            f"A row of {shapes.longest} tokens is longer than the backbone's {positions} positions: lower its length."
        )


def _optimizer(name: str, model: Any, parameters: list[torch.nn.Parameter]) -> int | None:
    with TemporaryDirectory() as folder:
        arguments = TrainingArguments(folder, optim=name, use_cpu=True, report_to="none")
    return optimizer_bytes(arguments, model, parameters)


def _parts(model: Any) -> dict[str, int]:
    """Parameters: all of them, those that train, and by part; a tied head is no part of its own."""
    parts: Counter[str] = Counter()
    body = {id(one) for one in body_of(model).parameters()}
    embeddings = {id(one) for one in model.get_input_embeddings().parameters()}
    for name, one in model.named_parameters():
        if "lora_" in name:
            part = "adapter"
        elif id(one) in embeddings:
            part = "embeddings"
        elif id(one) in body:
            part = "layers"
        else:
            part = "retriever" if name.startswith("retriever.") else "head"
        parts[part] += one.numel()
    return {
        "total": sum(parts.values()), "trained": sum(one.numel() for one in trained(model)),
        **{name: parts[name] for name in ("embeddings", "layers", "head", "adapter", "retriever") if parts[name]},
    }  # fmt: skip


def _shared(memory: Memory, machines: PlannedMachines) -> Memory:
    """Of each device, where several share."""
    if machines.sharding == "none":
        return memory
    shares, count = asdict(memory), machines.gpus
    for name in ("gradients", "optimizer", *(("weights",) if machines.sharding == "fsdp" else ())):
        if shares[name] is not None:
            shares[name] = -(-shares[name] // count)
    return Memory(**shares)


def _store(model: Any, texts: PlannedTexts) -> dict[str, float]:
    size, length = model.config.chunk_size, texts.document_length or 4096
    chunk = store_bytes(model.language_model, size, model.config.store_dtype)
    return {"a_token": chunk / size, "a_document": -(-length // size) * chunk}


def _width(model: Any, texts: PlannedTexts) -> int:
    dense = model.config.dense
    width = dense[-1]["out_features"] if dense else text_config_of(model).hidden_size
    if texts.truncate_dim is not None and texts.truncate_dim > width:
        raise ValueError(f"--truncate_dim={texts.truncate_dim} must be at most the embedding's {width}: lower it.")
    return texts.truncate_dim or width
