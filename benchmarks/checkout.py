"""What is measured is the checkout that a benchmark is in, whichever is installed.

Every benchmark imports this before the project: its root comes first among the places of imports,
here and, through the environment, in the processes started from here.
"""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

sys.path.insert(0, str(ROOT))
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
