"""The data model, the image store, and shards: written, read, verified and described."""
