"""Beam's engines: options, coders, workers, and what each of them lacks."""
