"""Every sampler, written once; knows no model."""
from maskless.decoding.canvas import Canvas, Sites
from maskless.decoding.choice import Choice, Choices, Draw, inverse_linear, linear_top_k, rising
from maskless.decoding.chunked import Chunked, WholeFirst
from maskless.decoding.corrector import Anew, Corrected
from maskless.decoding.decode import Predictor, Record, check, decode
from maskless.decoding.digits import CoarseFirst, DigitCanvas, DigitDraw, TokenByToken
from maskless.decoding.ends import arccos, arccos_maskgit, arccos_pgm, cosine, even, root, square
from maskless.decoding.guidance import Guided, constant, halves, ramped
from maskless.decoding.halton import Halton
from maskless.decoding.noise import Noise
from maskless.decoding.options import SamplerOptions
from maskless.decoding.order import Confidence, EntropyBound, LeftToRight, Margin, Order, Random, Ranked, Spaced
from maskless.decoding.plan import Adaptive, Ancestral, Blockwise, Plan, Recorded, Scheduled, Step, Stretch
from maskless.decoding.rollout import rollout
from maskless.decoding.sampler import Sampler, remask, slide, text_of
from maskless.decoding.speculate import Speculative

__all__ = ["Adaptive", "Ancestral", "Anew", "Blockwise", "Canvas", "Choice", "Choices", "Chunked", "CoarseFirst", "Confidence", "Corrected",
           "DigitCanvas", "DigitDraw", "Draw", "EntropyBound", "Guided", "Halton", "LeftToRight", "Margin", "Noise", "Order", "Plan", "Predictor",
           "Random", "Ranked", "Record", "Recorded", "Sampler", "SamplerOptions", "Scheduled", "Sites", "Spaced", "Speculative", "Step", "Stretch",
           "TokenByToken", "WholeFirst", "arccos", "arccos_maskgit", "arccos_pgm", "check", "constant", "cosine", "decode", "even", "halves",
           "inverse_linear", "linear_top_k", "ramped", "remask", "rising", "rollout", "root", "slide", "square", "text_of"]
