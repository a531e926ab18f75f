"""Reading pickles without trusting them: `machine.load` builds plain values and inert records, and runs nothing."""
from maskless.checkpoints.pickles.machine import load
from maskless.checkpoints.pickles.settings import plain, tokenizer
from maskless.checkpoints.pickles.values import Inert, Refused, Storage, StorageType, Stored

__all__ = ["Inert", "Refused", "Storage", "StorageType", "Stored", "load", "plain", "tokenizer"]
