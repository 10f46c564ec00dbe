"""What tests that run the code of repos need."""

import sys

import pytest
import transformers.dynamic_module_utils


@pytest.fixture
def fresh_code(tmp_path, monkeypatch):
    """The code of repos goes to a place of the test's own: a former test may have left the package at another."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "transformers_modules"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(tmp_path / "modules")
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "transformers_modules"]:
        del sys.modules[name]
