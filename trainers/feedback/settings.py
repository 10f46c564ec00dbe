"""What `lookback score` is told."""

from dataclasses import dataclass, field
from pathlib import Path

from ..embedded import BACKBONE_FOLDER
from .formats import PROMPTS, TARGETS

DOCUMENT = "document"


@dataclass
class ScoreArguments:
    """What to score, with what, and where the rows go. A setting that is not given is that of the model's repo."""

    data: str = field(metadata={"help": "Rows: a data file, a folder or a Hub id. Documents: text files as well."})
    output: str = field(metadata={"help": "The .jsonl file to write."})
    model: str = field(
        default=str(BACKBONE_FOLDER),
        metadata={
            "help": "Hub id or folder of a SelfRetrievalLM, or of any causal LM. Default: the embedded backbone."
        },
    )
    task: str | None = field(
        default=None,
        metadata={"help": f"{', '.join(PROMPTS)} or {DOCUMENT}. Default: each row's own field 'task'."},
    )
    target: str = field(
        default="answer",
        metadata={"help": "Of rows: score the answer behind candidate and query, or the query behind the candidate."},
    )
    score: str = field(
        default="mean",
        metadata={"help": "Mean or sum of the tokens' log-likelihoods. Sums differ more between candidates."},
    )
    batch_size: int = field(default=8, metadata={"help": "Inputs that go through the model at once."})
    context_window_size: int | None = field(
        default=None, metadata={"help": "Tokens of the window. Default for rows: up to 2048, as the model has them."}
    )
    chunk_size: int | None = field(default=None, metadata={"help": "Of documents: tokens of a chunk."})
    target_size: int | None = field(default=None, metadata={"help": "Of documents: tokens scored in one window."})
    cuts: int | None = field(
        default=None, metadata={"help": "Of documents: random cuts of each. Default: one behind every target block."}
    )
    document_length: int | None = field(
        default=None, metadata={"help": "Of documents: most tokens before a cut that count. Default: all."}
    )
    candidates: str = field(
        default="some",
        metadata={"help": "Of documents: 'all' keys are tried, or 'some': BM25's best, and random ones."},
    )
    bm25_candidates: int = field(default=2, metadata={"help": "Of documents: BM25's best keys of each target chunk."})
    random_candidates: int = field(default=6, metadata={"help": "Of documents: random keys of each block."})
    seed: int = field(default=0, metadata={"help": "Of cuts, random keys, and the answer taken where there are more."})
    overwrite: bool = field(default=False, metadata={"help": "Start anew over a finished or interrupted output."})

    def check(self) -> None:
        """Raises ValueError for values that are no choice or do not fit."""
        choices = {"task": (None, *PROMPTS, DOCUMENT), "target": TARGETS, "score": ("mean", "sum")}
        for name, allowed in {**choices, "candidates": ("some", "all")}.items():
            if getattr(self, name) not in allowed:
                named = ", ".join(choice for choice in allowed if choice is not None)
                raise ValueError(f"--{name} is {getattr(self, name)!r}; it must be one of {named}.")
        for name, least in {"batch_size": 1, "cuts": 1, "bm25_candidates": 0, "random_candidates": 0}.items():
            if getattr(self, name) is not None and getattr(self, name) < least:
                raise ValueError(f"--{name} is {getattr(self, name)}; it must be {least} or more.")
        if self.bm25_candidates + self.random_candidates < 2:
            raise ValueError(
                "--bm25_candidates and --random_candidates are below 2 together; one key teaches nothing."
            )
        self._check_output()

    def _check_output(self) -> None:
        output, data = Path(self.output).resolve(), Path(self.data).resolve()
        if output.suffix != ".jsonl":
            raise ValueError(f"--output is {self.output!r}; its name must end in .jsonl.")
        if output == data or (data.is_dir() and data in output.parents):
            raise ValueError(f"--output {self.output!r} lies in --data {self.data!r}; name a file outside of it.")
