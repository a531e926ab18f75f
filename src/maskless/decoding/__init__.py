"""Every sampler, written once; knows no model."""
from maskless.decoding.canvas import Canvas, Sites
from maskless.decoding.choice import Choice, Draw
from maskless.decoding.decode import Predictor, Record, check, decode
from maskless.decoding.guidance import Guided
from maskless.decoding.noise import Noise
from maskless.decoding.options import SamplerOptions
from maskless.decoding.order import Confidence, EntropyBound, LeftToRight, Margin, Order, Random, Ranked, Spaced
from maskless.decoding.plan import (
           Adaptive,
           Ancestral,
           Blockwise,
           Plan,
           Recorded,
           Scheduled,
           Step,
           Stretch,
           arccos,
           cosine,
           even,
)
from maskless.decoding.rollout import rollout
from maskless.decoding.sampler import Sampler, remask, slide, text_of
from maskless.decoding.speculate import Speculative

__all__ = ["Adaptive", "Ancestral", "Blockwise", "Canvas", "Choice", "Confidence", "Draw", "EntropyBound", "Guided", "LeftToRight", "Margin",
           "Noise", "Order", "Plan", "Predictor", "Random", "Ranked", "Record", "Recorded", "Sampler", "SamplerOptions", "Scheduled", "Sites",
           "Spaced", "Speculative", "Step", "Stretch", "arccos", "check", "cosine", "decode", "even", "remask", "rollout", "slide", "text_of"]
