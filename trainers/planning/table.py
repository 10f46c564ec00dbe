"""A plan as a table to read, with a line on what fits and what to lower where it does not."""

from collections.abc import Iterator

from .plan import Plan, flops_a_step, tokens_a_step
from .units import hours, in_units, large

_WIDTH = 26


def table(plan: Plan) -> str:
    """All of it, one fact a line, under headings."""
    parts = {
        f"{plan.model.system} on {plan.kind}, {_type(plan)}": parameter_lines(plan),
        _memory_heading(plan): memory_lines(plan),
        f"training on {_devices(plan)}": training_lines(plan),
        "states that are kept": store_lines(plan),
        "index": index_lines(plan),
    }
    if plan.texts.reuse_states:
        parts = {title: lines for title, lines in parts.items() if not title.startswith("training")}
    found = {title: list(lines) for title, lines in parts.items()}
    return "\n".join(line for title, lines in found.items() if lines for line in (title, *lines))


def parameter_lines(plan: Plan) -> Iterator[str]:
    """How many parameters there are, and where."""
    numbers = dict(plan.parameters)
    total, trains = numbers.pop("total"), numbers.pop("trained")
    yield _line("parameters", f"{total:,}")
    yield _line("trained", f"{trains:,} ({trains / total:.3g} of all)")
    for name, number in numbers.items():
        yield _line(f"  {name}", f"{number:,}")


def memory_lines(plan: Plan) -> Iterator[str]:
    """What a device holds, and whether it is there."""
    if plan.texts.reuse_states:  # which does not train
        yield _line("weights", in_units(plan.memory.weights))
        return
    known = {"weights": plan.held.weights, "gradients": plan.held.gradients, "optimizer": plan.held.optimizer,
             "activations": plan.held.activations}  # fmt: skip
    for name, value in known.items():
        yield _line(name, "unknown" if value is None else in_units(value) + _share_of(plan, name))
    if plan.machines.sharding == "fsdp":
        yield _line("two layers, whole", in_units(2 * plan.layer_bytes))
    yield _line("together", in_units(plan.total) if None not in known.values() else f"at least {in_units(plan.total)}")
    yield _line({True: "fits", False: "does not fit", None: "fits without the unknown"}[plan.fits], verdict(plan))


def verdict(plan: Plan) -> str:
    """What there is, and what to lower where it is not enough."""
    there = f"{plan.total / plan.machines.memory:.0%} of {in_units(plan.machines.memory)}"
    if plan.total <= plan.room:
        return there
    return f"{there}, of which a tenth stays free: {'; '.join(advice(plan))}"


def advice(plan: Plan) -> Iterator[str]:
    """What lowers the largest part, then the second."""
    held = {"activations": plan.held.activations or 0, "weights": plan.held.weights,
            "gradients": plan.held.gradients, "optimizer": plan.held.optimizer or 0}  # fmt: skip
    order = sorted(held, key=lambda name: -held[name])
    sayings = {"activations": _lower_activations, "weights": _lower_weights,
               "gradients": _lower_training, "optimizer": _lower_training}  # fmt: skip
    said = dict.fromkeys(line for name in order[:2] if held[name] > plan.room / 10 for line in sayings[name](plan))
    yield from list(said)[:3] or ["take devices with more memory"]


def _lower_activations(plan: Plan) -> Iterator[str]:
    training, texts = plan.training, plan.texts
    if not training.gradient_checkpointing:
        yield "set --gradient_checkpointing"
    if plan.model.system == "biencoder" and (texts.sub_batch_size or 2) > 1:
        yield (
            "set --sub_batch_size"
            if texts.sub_batch_size is None
            else f"lower --sub_batch_size={texts.sub_batch_size}"
        )
    elif training.per_device_train_batch_size > 1:
        yield f"lower --per_device_train_batch_size={training.per_device_train_batch_size}"
    if not training.bf16 and plan.model.dtype == "float32":
        yield "set --bf16"


def _lower_weights(plan: Plan) -> Iterator[str]:
    if plan.machines.sharding != "fsdp" and plan.machines.gpus > 1:
        yield "set --sharding fsdp"
    if plan.model.dtype == "float32" and plan.model.lora_rank is not None:
        yield "set --dtype bfloat16"


def _lower_training(plan: Plan) -> Iterator[str]:
    if plan.machines.sharding == "none" and plan.machines.gpus > 1:
        yield "set --sharding zero2"
    elif plan.machines.sharding == "zero2":
        yield "set --sharding fsdp"
    if plan.model.lora_rank is None:
        yield "set --lora_rank 16"


def training_lines(plan: Plan) -> Iterator[str]:
    """Operations and time of a step, and of all."""
    names = ", ".join(dict.fromkeys(f"{one.count:,} {one.name} of {one.length:,}" for one in plan.shapes.rows[-2:]))
    yield _line("on a device at once", f"{names} tokens")
    yield _line("a step", f"{plan.rows_a_step:,} rows, {tokens_a_step(plan):,} tokens")
    flops = flops_a_step(plan)
    yield _line("operations a step", f"{large(flops)}FLOP, {large(flops / tokens_a_step(plan))}FLOP a token")
    yield _line("seconds a step", f"{plan.seconds_a_step:.3g}, at {_speed(plan)}")
    if plan.steps is not None:
        yield _line("steps", f"{plan.steps:,}, {hours(plan.steps * plan.seconds_a_step)}")


def store_lines(plan: Plan) -> Iterator[str]:
    """Of `reuse_states`."""
    if plan.store:
        kind = plan.texts.store_dtype or plan.model.dtype
        yield _line("of a token", f"{in_units(plan.store['a_token'])} ({kind})")
        yield _line(f"of {plan.texts.document_length or 4096:,} tokens", in_units(plan.store["a_document"]))


def index_lines(plan: Plan) -> Iterator[str]:
    """Bytes by precision, and the time that it takes to make them."""
    if not plan.index or plan.seconds_of_encoding is None:
        return
    yield _line("passages", f"{plan.texts.num_passages:,} of {plan.passage_length:,} tokens")
    for precision, size in plan.index.items():
        yield _line(precision, in_units(size))
    yield _line("to encode", f"{hours(plan.seconds_of_encoding)} on {_devices(plan)}, at {_speed(plan)}")


def _line(name: str, said: str) -> str:
    return f"  {name:<{_WIDTH}}  {said}"


def _type(plan: Plan) -> str:
    weights = f"weights in {plan.model.dtype}"
    return f"{weights}, computing in bfloat16" if plan.training.bf16 else weights


def _memory_heading(plan: Plan) -> str:
    return "memory" if plan.texts.reuse_states else "memory of each device in training"


def _share_of(plan: Plan, name: str) -> str:
    whole, held = getattr(plan.memory, name), getattr(plan.held, name)
    return "" if whole == held else f" (of {in_units(whole)})"


def _devices(plan: Plan) -> str:
    return "1 device" if plan.machines.gpus == 1 else f"{plan.machines.gpus} devices"


def _speed(plan: Plan) -> str:
    return f"{plan.machines.utilization:.0%} of {plan.peak_tflops:g} TFLOP/s"
