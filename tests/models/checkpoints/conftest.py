import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # small_networks.py serves all tests of this folder
