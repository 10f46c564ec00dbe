"""Training arguments of the self-retrieval LM."""

from dataclasses import dataclass, field

from ..base.arguments import FamilyArguments, check_least


@dataclass
class SelfRetrievalTrainingArguments(FamilyArguments):
    """`TrainingArguments`, and how documents are cut; what is retrieved is in the model's config."""

    document_length: int = field(
        default=4096, metadata={"help": "Tokens of a document block: context to retrieve from, window and target."}
    )
    target_size: int = field(
        default=512, metadata={"help": "Tokens at the end of a block that are scored; a multiple of chunk_size."}
    )
    index_refresh_steps: int | None = field(
        default=None,
        metadata={
            "help": "Keep chunk embeddings (dense, self, hybrid) in memory for so many steps; default: none are kept."
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_least(self, 1, "document_length", "target_size", "index_refresh_steps")
        if self.target_size >= self.document_length:
            raise ValueError(
                f"target_size={self.target_size} must be less than document_length={self.document_length}: a document "
                f"block holds context too; lower the one or raise the other."
            )
