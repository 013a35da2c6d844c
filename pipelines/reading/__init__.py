"""From files to documents: inputs of every format, pages parsed in a guarded process."""
