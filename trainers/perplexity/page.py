"""`lookback perplexity --report`: one self-contained page of what was looked back at, and what it was worth."""

import tempfile
from pathlib import Path
from typing import Any

import jinja2

from hub_cards.whole_files import written_whole

# JSON in a <script>: jinja2's `tojson` escapes <, >, & and ' there; `allow_nan` because browsers do not read NaN.
_TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
    undefined=jinja2.StrictUndefined,
    autoescape=True,
)
_TEMPLATES.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "ensure_ascii": False, "allow_nan": False}


def check_report_file(file: str | Path) -> None:
    """Raises ValueError where no report can be written to: a folder that is missing or not writable, or a folder."""
    file = Path(file)
    if file.is_dir():
        raise ValueError(
            f"--report={str(file)!r} is a folder: name a file in it, such as {str(file / 'report.html')!r}."
        )
    if not file.parent.is_dir():
        raise ValueError(f"--report={str(file)!r}: there is no folder {str(file.parent)!r}: make it first.")
    try:
        with tempfile.TemporaryFile(dir=file.parent):
            pass
    except OSError as error:
        raise ValueError(
            f"--report={str(file)!r} cannot be written ({error.strerror}): choose another folder."
        ) from error


def render_report(page: dict[str, Any]) -> str:
    """The HTML page of `page_data.document_page` or `chat_page`. Everything is inside it; it asks for no network."""
    return _TEMPLATES.get_template("page.html.jinja").render(page=page)


def write_report(file: str | Path, page: dict[str, Any]) -> None:
    """Renders the page into `file`, which is either the whole page or what it was before."""
    with written_whole(file) as new:
        new.write_text(render_report(page), encoding="utf-8")
