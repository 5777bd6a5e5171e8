"""Decoders: configuration, modules, and weights in."""

from medjax.models.attention import Layout
from medjax.models.config import PRESETS, ModelConfig
from medjax.models.decoder import Decoder

__all__ = ["PRESETS", "Decoder", "Layout", "ModelConfig"]
