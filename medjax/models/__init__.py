"""Decoders: configuration, modules, and weights in."""

from medjax.models.attention import Layout
from medjax.models.config import ModelConfig
from medjax.models.decoder import Decoder
from medjax.models.families import PRESETS

__all__ = ["PRESETS", "Decoder", "Layout", "ModelConfig"]
