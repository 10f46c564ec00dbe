"""Settings in files of YAML (JSON is YAML, too): those of a command, or a list of data sets."""

from pathlib import Path
from typing import Any

import yaml

from .readers import read_text, without_surrogates


def read_yaml(path: Path) -> Any:
    """What a file of YAML holds. Raises ValueError, naming the file and the line, for one that is none."""
    try:
        return without_surrogates(yaml.safe_load(read_text(path)))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}, line {mark.line + 1}" if mark is not None else str(path)
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
        raise ValueError(f"{where} is no YAML ({problem}): mend it.") from error
    except RecursionError:
        raise ValueError(f"{path} is nested too deep to be read: write it flatter.") from None
