"""The Beam graphs, their runners and the command line."""
