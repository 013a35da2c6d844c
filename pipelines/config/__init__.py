"""One YAML recipe a run, checked into typed objects before anything starts.

Every key that a recipe may hold is a field here, with its meaning beside it. An unknown key, a
wrong type or an impossible value is a `ConfigError` that names the key and what is allowed.
"""
