"""Sequence packing, the ratio plan and the order of documents: arithmetic on arrays."""
