"""`lookback needle`, or `lookback evaluate --needle`: is a number found that was hidden in a long text, by the text's
length and the number's place in it?

The texts, questions and names are those of RULER's needle tests. Each is answered by the language model alone, through
a window, and looking back. Several processes share the work under `torchrun` or `accelerate launch`; with --output an
interrupted test goes on where it was, and what the output holds is not computed again.
"""

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from hub_cards.transfer.folder_names import shared_name
from modeling_srlm import SelfRetrievalLM

from ..data.sources import check_source
from ..jobs.idle import refuse_idle, refuse_without
from ..jobs.parts import check_output
from ..jobs.processes import start_processes
from ..models.components import plain_settings
from ..models.load import load_srlm
from ..needle.haystack import read_texts
from ..needle.measure import NeedleTest, NeedleTexts
from ..needle.page import write_report
from ..needle.picture import heat_maps
from ..needle.results import NeedleResults, read_results
from ..needle.run import run_test
from ..needle.settings import ALONE, NeedleSettings
from ..pages.page import check_report_file, write_page
from ..perplexity.page_data import describe_model
from .loading import DtypeArguments, LookbackArguments, ModelArguments
from .parsing import check_at_least, parse_arguments


@dataclass
class NeedleArguments:
    """What to test, in which texts, and where the results go."""

    model: str = field(metadata={"help": "Hub id or folder of a SelfRetrievalLM, or of any causal LM."})
    data: str | None = field(
        default=None,
        metadata={
            "help": "What the long texts are made of: a text file, a folder of them, or rows with 'text'. Default: "
            "the code of the standard library."
        },
    )
    output: str | None = field(
        default=None, metadata={"help": "Keep every answer in this .json file, and go on with what it holds."}
    )
    report: str | None = field(
        default=None, metadata={"help": "Also write a page with the picture and the answers, such as report.html."}
    )
    picture: str | None = field(default=None, metadata={"help": "Also write the picture alone to this .svg file."})
    overwrite: bool = field(default=False, metadata={"help": "Start anew, whatever the output holds."})
    chunk_batch_size: int | None = field(default=None, metadata={"help": "Inputs that go through the model at once."})

    def __post_init__(self) -> None:
        check_at_least(self, 1, "chunk_batch_size")
        if self.data is not None:
            check_source(self.data)
        if self.output is not None:
            check_output(self.output, ".json", data=self.data)
        else:
            refuse_without(self, "output", ["overwrite"])
        if self.report is not None:
            check_report_file(self.report, data=self.data, output=self.output)
        if self.picture is not None:
            others = {"data": self.data, "output": self.output, "report": self.report}
            check_report_file(self.picture, "--picture", "picture.svg", (".svg",), **others)


def check_alone(arguments: NeedleArguments, methods: list[str], loading: LookbackArguments) -> None:
    """ValueError for options of looking back, where the language model alone is asked."""
    if methods != [ALONE]:
        return
    why = f"with --methods {ALONE}, which looks back at nothing"
    refuse_idle(arguments, ["chunk_batch_size"], why)
    of_model = {one.name for kind in (ModelArguments, DtypeArguments) for one in fields(kind)}
    names = [one.name for one in fields(loading) if one.name not in of_model]
    refuse_idle(loading, names, why)


def load_test(arguments: NeedleArguments, settings: NeedleSettings, loading: LookbackArguments) -> NeedleTest:
    """The test; its texts are made before weights are read, where the tokenizer does not come with these."""
    texts: list[NeedleTexts] = []

    def make(config: Any, tokenizer: Any) -> None:
        if tokenizer is not None:
            texts.append(NeedleTexts(config, tokenizer, read_texts(arguments.data, settings.seed), settings))

    model = load_model(arguments, settings.methods, loading, make)
    return NeedleTest(model, texts[0] if texts else read_texts(arguments.data, settings.seed), settings)


def load_model(
    arguments: NeedleArguments, methods: list[str], loading: LookbackArguments, check: Any = None
) -> SelfRetrievalLM:
    """The model for these methods; where neither options nor its repo name a `target_size`, a chunk of the window is
    kept for the answer, which is short."""
    batch = {} if arguments.chunk_batch_size is None else {"chunk_batch_size": arguments.chunk_batch_size}
    looking = tuple(method for method in methods if method != ALONE)
    settings = {**batch, **loading.settings()}
    model = load_srlm(arguments.model, settings, methods=looking, check=check, plain=plain_test, **loading.keywords())
    if model.config.target_size is None:  # elsewhere that is half of the window
        model.config.target_size = model.config.chunk_size
        model.config.check()
    return model


def plain_test(config: Any, given: dict[str, Any]) -> dict[str, Any]:
    """Settings for a plain LM, which names no `target_size`."""
    return {**plain_settings(config, given), "target_size": None}


def describe(arguments: NeedleArguments, model: SelfRetrievalLM, results: NeedleResults) -> list[tuple[str, str]]:
    """(name, value) pairs for the head of the page."""
    texts = "the standard library" if arguments.data is None else shared_name(arguments.data)
    return [
        ("answers", f"{len(results.answers):,}"), ("texts", texts), *describe_model(arguments.model, model)
    ]  # fmt: skip


ARGUMENTS = (NeedleArguments, NeedleSettings, LookbackArguments)
EXAMPLES = r"""
# the model alone, through a window, and looking back
lookback needle --model runs/srlm --lengths 2k 8k 32k --report needles.html
# four needles in a text; a test that can be interrupted, and extended by longer texts
lookback needle --model runs/srlm --keys 1 4 --lengths 4k 128k 1M --output needles.json
# your own texts and ways of looking back
lookback needle --model runs/srlm --data folder --methods no bm25 self --samples 20
"""


def main(argv: list[str]) -> None:
    """Prints the table, and writes results, page and picture where asked to."""
    arguments, settings, loading = parse_arguments(argv, ARGUMENTS, "needle", __doc__)
    check_alone(arguments, settings.methods, loading)
    state = start_processes()
    if arguments.output is not None and not arguments.overwrite and Path(arguments.output).exists():
        read_results(arguments.output)  # what holds no needle test is said before the model is loaded
    test = load_test(arguments, settings, loading)
    model = test.model.to(state.device)
    about = {"model": shared_name(arguments.model), "data": arguments.data and shared_name(arguments.data)}
    results = run_test(test, arguments.output, arguments.overwrite, about=about)
    if not state.is_main_process:
        return
    config = model.config
    print(f"\nwindow {config.context_window_size}, chunk {config.chunk_size}, k {config.key_num}")
    print(results.as_text())
    for reason in sorted(set(results.impossible.values())):
        print(f"-: {reason}")
    if arguments.report is not None:
        write_report(arguments.report, results, describe(arguments, model, results))
        print(f"report: {arguments.report}")
    if arguments.picture is not None:
        write_page(arguments.picture, heat_maps(results))
        print(f"picture: {arguments.picture}")
    if arguments.output is not None:
        print(f"results: {arguments.output}")
