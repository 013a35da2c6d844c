"""Rules as pure functions over Arrow batches: a batch in, a column out.

A document or image filter answers with a column of reasons (`filters.rules`). `language`,
`minhash` and `clip` compute what filters and pipelines read, and `pii` masks text.
"""
