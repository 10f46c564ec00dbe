"""`lookback perplexity --report`: one self-contained page of what was looked back at, and what it was worth."""

from pathlib import Path
from typing import Any

from ..pages.page import page_templates, write_page

FOLDER = Path(__file__).parent / "templates"
_TEMPLATES = page_templates(FOLDER)


def render_report(page: dict[str, Any]) -> str:
    """The HTML page of `page_data.document_page` or `chat_page`. Everything is inside it; it asks for no network."""
    return _TEMPLATES.get_template("page.html.jinja").render(page=page)


def write_report(file: str | Path, page: dict[str, Any]) -> None:
    """Renders the page into `file`, which is either the whole page or what it was before."""
    write_page(file, render_report(page))
