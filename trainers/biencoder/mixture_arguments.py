"""Arguments for training data: how several data sets are mixed, streaming, and in-context examples."""

from dataclasses import dataclass, field

MIXTURES = ("proportional", "temperature", "equal")


@dataclass
class MixtureArguments:
    """A part of `BiEncoderTrainingArguments`."""

    mixture: str = field(
        default="proportional",
        metadata={
            "help": "How many batches each of several data sets gives: as many as it takes to see every row once an "
            "epoch (proportional), ~ (its number of batches) ** (1 / mixture_temperature) (temperature), or equal."
        },
    )
    mixture_temperature: float = field(
        default=2.0, metadata={"help": "With mixture=temperature: 1 is proportional, the higher the more equal."}
    )
    symmetric_group_size: int | None = field(
        default=None,
        metadata={"help": "train_group_size of data sets of type sts, classification and clustering."},
    )
    symmetric_batch_size: int | None = field(
        default=None, metadata={"help": "per_device_train_batch_size of data sets of these types."}
    )
    streaming: bool = field(
        default=False, metadata={"help": "Read training data while training goes on, not before; needs max_steps."}
    )
    shuffle_buffer: int = field(
        default=1000,
        metadata={"help": "Streamed rows of a file or repo are drawn from so many at a time; 0 keeps their order."},
    )
    max_examples: int = field(
        default=0,
        metadata={"help": "Put up to so many (query, positive) pairs of a query's batch before it, as examples."},
    )
    fixed_examples: bool = field(
        default=False, metadata={"help": "Always max_examples of them, not 0 to max_examples drawn anew each time."}
    )
    examples_max_length: int = field(
        default=256, metadata={"help": "Tokens that all examples of a query take at most, beside query_max_length."}
    )

    def _check_mixture(self) -> None:
        """ValueError for a value out of range."""
        if self.mixture not in MIXTURES:
            raise ValueError(f"mixture={self.mixture!r} must be one of {', '.join(MIXTURES)}.")
        if self.mixture_temperature <= 0:
            raise ValueError(f"mixture_temperature={self.mixture_temperature} must be more than 0.")
        for name, least in (
            ("symmetric_group_size", 1), ("symmetric_batch_size", 1), ("shuffle_buffer", 0), ("max_examples", 0),
            ("examples_max_length", 1),
        ):  # fmt: skip
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name}={value} must be {least} or more.")
