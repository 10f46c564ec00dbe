"""What tests share: tiny models, small data, a Hub on this machine; no test file imports another."""

from pathlib import Path

ROOT = Path(__file__).parents[2]  # of the project
GOLDEN = ROOT / "tests" / "golden"  # figures of the original code
FIXTURES = ROOT / "tests" / "fixtures"  # repos as earlier versions saved them
