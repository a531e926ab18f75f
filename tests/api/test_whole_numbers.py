"""A number of the wrong kind is one clear sentence: in a process of its own, where nothing but the library looks at types."""
from __future__ import annotations

import json
import subprocess
import sys

import pytest
from tests.training.runs import REPOSITORY, environment

OPENING = """
import json, numpy, torch, maskless
sizes = {"width": 8, "heads": 2, "encoder_layers": 1, "decoder_layers": 1}
bytes = maskless.load_tokenizer("bytes")
text = maskless.TextModel(maskless.build(maskless.PartitionConfig(vocab_size=259, length=16, **sizes)), bytes, device="cpu")
codes = maskless.ImageCodes(maskless.PixelCodec(levels=4), grid=(4, 4))
image = maskless.ImageModel(maskless.build(maskless.PartitionConfig(vocab_size=4, length=16, grid=(4, 4), classes=2, **sizes)), codes, device="cpu")
found = {}
for call in %r:
    try:
        eval(call)
        found[call] = "nothing"
    except Exception as error:
        found[call] = f"{type(error).__name__}: {error}"
print(json.dumps(found))
"""
NO_SAMPLER = "sampler is 'confidence'; give a Sampler or SamplerOptions, or leave it out and name options, such as order=\"confidence\""
SENTENCES = {
    "text.generate(2.5)": "n is 2.5; give a whole number of texts",
    "text.generate('3')": "n is '3'; give a whole number of texts",
    "text.generate(True)": "n is True; give a whole number of texts",
    "text.generate(length=9.5)": "length is 9.5; give a whole number",
    "text.generate(seed=0.5)": "seed is 0.5; give a whole number",
    "text.generate(2, seed=[1, 0.5])": "seed is 0.5; give a whole number",
    "text.generate(refresh=1.5)": "refresh is 1.5; give a whole number",
    "text.generate(stop='no')": "stop is 'no'; give true or false",
    "text.generate(gamma=float('nan'))": "gamma nan is not a finite number of nats, or below 0; 0.1 is usual",
    "text.logprob('a', seed=[1])": "seed is [1]; give a whole number",
    "text.infill('a ___', lengths={3})": "lengths is {3}; give a number of tokens, one per gap, or \"search\"",
    "text.generate(steps=2.5)": "steps is 2.5; give a whole number",
    "text.generate(block=None)": "block is None; give a whole number",
    "text.generate(temperature='hot')": "temperature is 'hot'; give a number",
    "text.infill('a___b', lengths=2.5)": "the lengths of the gaps are [2.5]; each needs at least 1 token: write ___{8} or pass lengths=8",
    "text.infill('a___b', lengths=2, seed=0.5)": "seed is 0.5; give a whole number",
    "text.logprob('a', seed=0.5)": "seed is 0.5; give a whole number",
    "text.logprob('a', samples=2.5)": "samples is 2.5; give a whole number of draws (a bound with its error needs two)",
    "text.generate(seed=None)": "seed is None; give a whole number",
    "text.generate(prompt=None)": "prompt is None; give a text, or a list of texts",
    "text.generate(prompt=['a', 3])": "prompt is 3; give one text, a str",
    "text.generate(3, prompt=['a', 'b'])": "2 texts were given as prompt for 3 rows; give one for each, or one for all",
    "text.generate(prompt=[])": "0 texts were given as prompt for 1 rows; give one for each, or one for all",
    "text.generate(prompt=b'abc')": "prompt is b'abc'; give a text, or a list of texts",
    "text.infill(None)": "text is None; give a text, or a list of texts",
    "text.infill(['a ___ b', None], lengths=1)": "text is None; give one text, a str",
    "text.infill(['a ___ b'], n=2, lengths=1)": 
    "a list of texts was given with n 2 and lengths 1; several ways and lengths to search are of one text",
    "text.infill('a___b', lengths=2, n=2.5)": "n is 2.5; give a whole number of texts",
    "text.logprob(of=None)": "of is None; give one text, a str",
    "text.logprob(of=['a', 3], given='___ ___')": "of is 3; give one text, a str",
    "text.logprob(of='a', given=None)": "given is None; give one text, a str",
    "text.generate(sampler='confidence')": NO_SAMPLER,
    "text.infill('a___b', lengths=2, sampler='confidence')": NO_SAMPLER,
    "image.generate(sampler='confidence')": NO_SAMPLER,
    "maskless.load_tokenizer(5)": "name is 5; give a path or a name, such as bytes or gpt2",
    "maskless.TextModel(text.model, 'bytes')": "tokenizer is 'bytes'; give a tokenizer, such as maskless.load_tokenizer(\"bytes\")",
    "maskless.load(None)": "source is None; give a folder, a file of weights, tiny, or organisation/name on the Hugging Face Hub",
    "maskless.load('tiny', dtype=torch.int8)": "dtype is torch.int8; give auto, float32, bfloat16, float16, float64",
    "maskless.load('tiny', dtype='float8')": "dtype is 'float8'; give auto, float32, bfloat16, float16, float64",
    "maskless.build(maskless.MaskedConfig(vocab_size=0))": "vocab_size is 0; give a whole number of at least 1",
    "maskless.build(maskless.MaskedConfig(vocab_size=9, length=0))": "length is 0; give a whole number of at least 1",
    "maskless.build(maskless.PartitionConfig(vocab_size=2.5))": "vocab_size is 2.5; give a whole number of at least 1",
    "maskless.SubTokenCode.given(torch.zeros(3, 2))": "torch.float32 of shape (3, 2) was given; give whole numbers in 2 dimensions",
    "maskless.SubTokenCode.given(torch.zeros(3).long())": "torch.int64 of shape (3,) was given; give whole numbers in 2 dimensions",
    "maskless.SubTokenCode.permuted(3, 2, torch.zeros(3))": "torch.float32 of shape (3,) was given; give whole numbers in 1 dimension",
    "maskless.PrimeConfig(9, positions='spiral')": "positions 'spiral' is not known; choose line or axial",
    "maskless.MaskedConfig(9, length=4, grid=(2, 2), positions='axial', heads=0)": "heads is 0; give at least one",
    "image.generate(1.5)": "n is 1.5; give a whole number of images",
    "image.generate(labels=0.7)": "label is 0.7; give a whole number",
    "image.generate(2, batch=1.5)": "batch is 1.5; give a whole number of images at once",
}
RIGHT = ("maskless.load('tiny', device=torch.device('cpu'))",
         "text.generate(numpy.int64(2), seed=numpy.int64(3), length=8, steps=numpy.int32(2))", "image.generate(1, temperature=1, steps=2)",
         "image.generate(1, labels=numpy.int64(1), steps=2)", "maskless.load('tiny', dtype='float64').generate(length=6, steps=1)",
         "text.infill('a___b', lengths=2, n=numpy.int64(2), seed=numpy.arange(2), steps=1)", "text.logprob(('a', 'b'), given='___ ___')")


@pytest.fixture(scope="module")
def said() -> dict[str, str]:
    calls = [*SENTENCES, *RIGHT]
    ended = subprocess.run([sys.executable, "-c", OPENING % calls], cwd=REPOSITORY, env=environment(), capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


@pytest.mark.parametrize("call", SENTENCES)
def test_a_number_of_the_wrong_kind_is_one_sentence(said, call):
    assert said[call] == f"ValueError: {SENTENCES[call]}"


@pytest.mark.parametrize("call", RIGHT)
def test_numbers_of_other_libraries_are_numbers(said, call):
    assert said[call] == "nothing"
