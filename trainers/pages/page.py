"""What the pages of reports share: the environment of their templates, and how they reach their file whole."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import jinja2

from hub_cards.whole_files import refuse_read, written_whole


def page_templates(*folders: Path) -> jinja2.Environment:
    """The templates of a room's folder, which may include those of other rooms and of this one (`base.css`).

    Values are escaped.

    `tojson` in a <script> escapes <, >, & and '; NaN, which browsers do not read, is an error.
    """
    places = (*folders, Path(__file__).parent / "templates")
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(places), undefined=jinja2.StrictUndefined, autoescape=True
    )
    templates.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "ensure_ascii": False, "allow_nan": False}
    return templates


def check_report_file(
    file: str | Path,
    option: str = "--report",
    example: str = "report.html",
    endings: Sequence[str] = (".html", ".htm"),
    **besides: str | None,
) -> None:
    """Raises ValueError where no report can be written to: a folder, or in one that is missing or not writable.

    And for a name that does not end as what is written does, and for a place in what is read or written `besides`:
    options' values by their names.
    """
    file = Path(file)
    if file.is_dir():
        raise ValueError(f"{option}={str(file)!r} is a folder: name a file in it, such as {str(file / example)!r}.")
    if file.suffix.lower() not in endings:
        raise ValueError(
            f"{option}={str(file)!r} must end in {' or '.join(endings)}, as that is what is written: give it such a "
            f"name, like {example!r}."
        )
    refuse_read(option, file, **besides)
    if not file.parent.is_dir():
        raise ValueError(f"{option}={str(file)!r}: there is no folder {str(file.parent)!r}: make it first.")
    try:
        with tempfile.TemporaryFile(dir=file.parent):
            pass
    except OSError as error:
        raise ValueError(
            f"{option}={str(file)!r} cannot be written ({error.strerror}): choose another folder."
        ) from error


def write_page(file: str | Path, text: str) -> None:
    """Writes the text into `file`, which is either the whole page or what it was before."""
    with written_whole(file) as new:
        new.write_text(text, encoding="utf-8")
