"""What a terminal shows of a run: progress, status, logs, tables."""
