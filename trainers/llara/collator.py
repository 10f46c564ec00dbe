"""Batches of passages, prompts and the words that they have to name: token ids of examples as padded tensors."""

from dataclasses import dataclass

from ..data.padding import Batch, Example, check_examples, check_padding, check_same_length, pad_rows, pad_texts

SPANS = ("output_summarize_ids", "output_predict_ids")  # the words that each has to name


@dataclass
class LlaraCollator:
    """Rows [passage | prompts] and the target words of each span.

    Labels and target ids are padded with -100; a span for which no example of the batch has a target is left out.

    >>> collate = LlaraCollator(pad_token_id=0, padding_side="left")
    >>> collate([
    ...     {"input_ids": [4, 5, 9], "labels": [4, 5, -100], "output_summarize_ids": [4, 5], "output_predict_ids": []},
    ...     {"input_ids": [6, 9], "labels": [6, -100], "output_summarize_ids": [6], "output_predict_ids": []},
    ... ])
    {'input_ids': tensor([[4, 5, 9],
            [0, 6, 9]]), 'attention_mask': tensor([[1, 1, 1],
            [0, 1, 1]]), 'labels': tensor([[   4,    5, -100],
            [-100,    6, -100]]), 'output_summarize_ids': tensor([[   4,    5],
            [-100,    6]])}
    """

    pad_token_id: int
    padding_side: str

    def __post_init__(self) -> None:
        check_padding(self.pad_token_id, self.padding_side)

    def __call__(self, examples: list[Example]) -> Batch:
        check_examples(examples, "input_ids", "labels", *SPANS)
        batch: Batch = pad_texts([example["input_ids"] for example in examples], self.pad_token_id, self.padding_side)
        batch["labels"] = pad_rows([example["labels"] for example in examples], -100, self.padding_side, "labels")
        check_same_length(examples, "labels", "input_ids")
        for field in SPANS:
            targets = pad_rows([example[field] for example in examples], -100, self.padding_side, field)
            if targets.shape[1]:
                batch[field] = targets
        return batch
