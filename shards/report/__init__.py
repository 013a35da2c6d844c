"""The HTML report of a run: one file that shows what was mixed, what was dropped and why."""
