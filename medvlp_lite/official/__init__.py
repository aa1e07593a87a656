"""Readers of the authors' released checkpoints, one module per system."""
