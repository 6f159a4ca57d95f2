"""Where the tests find things: the repository, their own data, and the shared media beside the repository."""

from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
ROOT = TESTS.parent
DATA = TESTS / "data"
SHARED = ROOT.parent / "shared"
"""Real media and references that do not belong to the project; tests that want them are skipped without them."""
