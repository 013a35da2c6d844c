"""The reference model that trains on the shards, and the CLIP filter network."""
