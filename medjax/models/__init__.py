"""Decoders: configuration, modules, and weights in."""
