"""What `lookback score` is told."""

from dataclasses import dataclass, field, fields

from hub_cards.travelling.checks import check_fields, shown

from ..base.arguments import MOST
from ..data.sources import check_source
from ..embedded import BACKBONE_FOLDER
from ..jobs.idle import refuse_idle, refuse_without
from ..jobs.parts import check_new, check_output
from ..jobs.places import check_model_name
from ..jobs.shards import NUM_SHARDS_HELP, check_num_shards
from ..models.components import ADD_BOS
from .formats import PROMPTS, TARGETS

DOCUMENT = "document"
# What another teacher than a language model takes.
OF_TEACHERS = ("data", "output", "teacher", "batch_size", "num_shards", "overwrite")
OF_SOME = ("bm25_candidates", "random_candidates", "dense_candidates")
OF_DOCUMENTS = ("target_size", "cuts", "document_length", "candidates", *OF_SOME)


@dataclass
class ScoreArguments:
    """What to score, with what, and where the rows go. A setting that is not given is that of the model's repo.

    Raises ValueError for values that are no choice or do not fit.
    """

    data: str = field(metadata={"help": "Rows: a data file, a folder or a Hub id. Documents: text files as well."})
    output: str = field(metadata={"help": "The .jsonl file to write."})
    model: str = field(
        default=str(BACKBONE_FOLDER),
        metadata={
            "help": "Hub id or folder of a SelfRetrievalLM, or of any causal LM. Default: the embedded backbone."
        },
    )
    teacher: str | None = field(
        default=None,
        metadata={
            "help": "Hub id or folder of a cross-encoder (sentence-transformers) or bi-encoder that scores rows in "
            "place of the language model (docs/teachers.md)."
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
    add_bos: bool | None = field(default=None, metadata=ADD_BOS)
    cuts: int | None = field(
        default=None, metadata={"help": "Of documents: random cuts of each. Default: one behind every target block."}
    )
    document_length: int | None = field(
        default=None, metadata={"help": "Of documents: most tokens before a cut that count. Default: all."}
    )
    candidates: str = field(
        default="some",
        metadata={
            "help": "Of documents: 'all' keys are tried, or 'some': BM25's best, random ones, a retriever's best."
        },
    )
    bm25_candidates: int = field(default=2, metadata={"help": "Of documents: BM25's best keys of each target chunk."})
    random_candidates: int = field(
        default=6,
        metadata={"help": "Of documents: random keys of each block; with --reuse_states of each target."},
    )
    dense_candidates: int = field(
        default=0, metadata={"help": "Of documents: best keys of each target chunk by the model's own retriever."}
    )
    seed: int = field(default=0, metadata={"help": "Of cuts, random keys, and the answer taken where there are more."})
    num_shards: int | None = field(default=None, metadata={"help": NUM_SHARDS_HELP})
    overwrite: bool = field(default=False, metadata={"help": "Start anew over a finished or interrupted output."})

    def __post_init__(self) -> None:
        check_fields(self, ScoreArguments)
        choices = {"task": (None, *PROMPTS, DOCUMENT), "target": TARGETS, "score": ("mean", "sum")}
        for name, allowed in {**choices, "candidates": ("some", "all")}.items():
            if (value := getattr(self, name)) not in allowed:
                named = ", ".join(choice for choice in allowed if choice is not None)
                raise ValueError(f"--{name}={value!r} must be one of {named}: take one of them.")
        sizes = dict.fromkeys(("context_window_size", "chunk_size", "target_size", "document_length"), 1)
        counts = {"batch_size": 1, "cuts": 1, **dict.fromkeys(OF_SOME, 0)}
        for name, least in {**counts, **sizes}.items():
            if (value := getattr(self, name)) is not None and not least <= value <= MOST:
                raise ValueError(f"--{name}={shown(value)} must be at least {least} and at most {MOST}: change it.")
        if sum(getattr(self, name) for name in OF_SOME) < 2:
            said = ", ".join(f"--{name}={getattr(self, name)}" for name in OF_SOME)
            raise ValueError(f"{said} must be at least 2 together, as one key teaches nothing: raise one of them.")
        self._check_teacher()
        if self.task == DOCUMENT:
            refuse_idle(self, ["target"], f"with --task {DOCUMENT}, whose targets are chunks")
        elif self.teacher is None:
            refuse_without(self, f"task {DOCUMENT}", OF_DOCUMENTS)
        if self.candidates == "all":
            refuse_idle(self, OF_SOME, "with --candidates all")
        check_num_shards(self)
        check_output(self.output, data=self.data)
        check_new(self.output, self.num_shards is not None, self.overwrite)
        check_source(self.data)

    def _check_teacher(self) -> None:
        check_model_name("--teacher", self.teacher)
        if self.teacher is not None:
            names = [one.name for one in fields(self) if one.name not in OF_TEACHERS]
            why = f"with --teacher={self.teacher!r}, which scores query and candidates as they are"
            refuse_idle(self, names, why)
