"""Tokenizers: exact round trips, special ids, saving and loading, and what is said when something is wrong."""
from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, normalizers, pre_tokenizers

from maskless.data.subwords import BYTES
from maskless.data.tokenizer import (
    ByteTokenizer,
    SubwordTokenizer,
    SymbolTokenizer,
    Tokenizer,
    learn_symbols,
    learn_words,
    load_tokenizer,
    symbol_tokenizer,
    text8_tokenizer,
    train_bpe,
)
from maskless.vocabulary import Vocabulary

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "text_data.json").read_text(encoding="utf-8"))
HARD = [
    "", " ", "  leading and trailing  ", "a\r\n\tb\x00c", "naïve 日本語 \U0001f92f\U0001f469\u200d\U0001f467",
    "don't <|endoftext|> <|bos|> [MASK]", "\u0301\ufeff\u200b",
]
PROSE = ["the cat sat on the mat and the dog sat on the log " * 4, "a catalogue of cats, dogs and logs; naïve 日本"]


def strings() -> list[str]:
    """Fixed hard texts and random ones from all of Unicode, surrogates left out."""
    draw = random.Random(0)
    pools = [(32, 127), (0, 0x300), (0x3000, 0x9FFF), (0x10000, 0x10FFFF)]
    character = lambda: chr(draw.randrange(*draw.choice(pools)))
    return HARD + ["".join(character() for _ in range(draw.randrange(40))) for _ in range(200)]


def every_kind() -> list[Tokenizer]:
    return [ByteTokenizer(), symbol_tokenizer("abc"), text8_tokenizer(), train_bpe(PROSE, 290), word_piece()]


def word_piece() -> SubwordTokenizer:
    """A BERT in small: [MASK] inside the vocabulary, lower-casing, ## continuations."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "##s", "sat", "."]
    backend = Backend(models.WordPiece(vocab={word: n for n, word in enumerate(words)}, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    backend.add_special_tokens(words[:5])
    backend.enable_truncation(3)
    return SubwordTokenizer(json.loads(backend.to_str()))


@pytest.fixture(scope="module")
def bpe() -> SubwordTokenizer:
    return train_bpe(PROSE, 290)


def test_bytes_come_back_exactly():
    tokenizer = ByteTokenizer()
    assert tokenizer.vocabulary == Vocabulary(259, 256, 257, 258, (258,))
    for text in strings():
        assert tokenizer.decode(tokenizer.encode(text)) == text
        assert tokenizer.decode_bytes([256, *tokenizer.encode(text), 257]) == text.encode()


def test_incomplete_utf8_is_kept_as_bytes_and_replaced_as_text(bpe):
    for tokenizer in (ByteTokenizer(), bpe):
        ids = tokenizer.encode("木")
        assert len(ids) == 3
        assert tokenizer.decode(ids[:2]) == "\ufffd"
        assert tokenizer.decode_bytes(ids[:2]) == "木".encode()[:2]
        assert b"".join(tokenizer.pieces(ids)) == "木".encode()


def test_half_a_surrogate_pair_is_an_error(bpe):
    for tokenizer in (ByteTokenizer(), bpe):
        with pytest.raises(ValueError, match="surrogate"):
            tokenizer.encode("a\ud83e")


def test_bpe_comes_back_exactly_and_reads_no_special_tokens(bpe):
    assert bpe.vocabulary.size == 290 and (bpe.vocabulary.bos, bpe.vocabulary.eos, bpe.vocabulary.pad) == (0, 1, 2)
    for text in strings():
        ids = bpe.encode(text)
        assert bpe.decode(ids) == text and bpe.decode_bytes(ids) == text.encode()
        assert not {0, 1, 2} & set(ids)
    assert bpe.decode([0, *bpe.encode("cats"), 1, 2]) == "cats"
    assert len(bpe.encode(PROSE[0])) < len(PROSE[0]) / 2


def test_bpe_is_the_same_every_time_and_has_a_least_size(bpe):
    assert train_bpe(iter(PROSE), 290).hash == bpe.hash
    assert train_bpe(PROSE, 280).hash != bpe.hash
    with pytest.raises(ValueError, match="100"):
        train_bpe(PROSE, 100)


@pytest.mark.parametrize("tokenizer", every_kind(), ids=lambda t: type(t).__name__)
def test_saved_and_loaded_it_is_the_same(tokenizer, tmp_path):
    assert isinstance(tokenizer, Tokenizer)
    tokenizer.save(tmp_path)
    for place in (tmp_path, tmp_path / "tokenizer.json", str(tmp_path)):
        again = load_tokenizer(place)
        assert again.hash == tokenizer.hash and again.vocabulary == tokenizer.vocabulary
    assert again.encode("abcabc") == tokenizer.encode("abcabc")
    arrays = list(tokenizer.arrays(["abc", "", "cab"]))
    assert [array.tolist() for array in arrays] == [tokenizer.encode(text) for text in ("abc", "", "cab")]
    assert all(np.issubdtype(array.dtype, np.integer) for array in arrays)


def test_hashes_differ():
    different = [*every_kind(), symbol_tokenizer("abcd"), symbol_tokenizer("acb")]
    hashes = [tokenizer.hash for tokenizer in different]
    assert len(set(hashes)) == len(hashes) and all(len(hash) == 64 for hash in hashes)


def test_gpt2_pair_of_files(tmp_path):
    """Ids follow encoder.json, merges follow vocab.bpe, the end-of-text token is BOS and EOS."""
    alphabet = sorted(BYTES)
    names = [*alphabet, "he", "Ġhe", "<|endoftext|>"]
    (tmp_path / "encoder.json").write_text(json.dumps({name: n for n, name in enumerate(names)}))
    (tmp_path / "vocab.bpe").write_text("#version: 0.2\nh e\nĠ he\n", encoding="utf-8")
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.vocabulary == Vocabulary(259, bos=258, eos=258)
    assert tokenizer.encode("he he") == [256, 257]  # no space is put in front
    for text in strings():
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.decode([256, 258, 257]) == "he he"
    (tmp_path / "vocab.bpe").write_text("#version: 0.2\nh e x\n", encoding="utf-8")
    with pytest.raises(ValueError, match="h e x"):
        load_tokenizer(tmp_path)


def test_word_piece_keeps_its_mask_out_of_predictions():
    tokenizer = word_piece()
    assert tokenizer.vocabulary == Vocabulary(10, bos=2, eos=3, pad=0, forbidden=(0, 4))
    ids = tokenizer.encode("The cats sat.")
    assert ids == [5, 6, 7, 8, 9]  # a tokenizer.json's own truncation to 3 is not for us
    assert tokenizer.decode([2, *ids, 3, 0]) == "the cats sat."
    assert [piece.strip() for piece in tokenizer.pieces(ids)] == [b"the", b"cat", b"s", b"sat", b"."]
    assert b"".join(tokenizer.pieces([2, 5, 0, *ids, 3])).decode() == tokenizer.decode([2, 5, 0, *ids, 3]) == "the the cats sat."


def test_special_tokens_named_beside_the_file(tmp_path, bpe):
    bpe.save(tmp_path)
    names = tmp_path / "special_tokens_map.json"
    names.write_text(json.dumps({"bos_token": {"content": "<|eos|>"}, "pad_token": None}))
    assert load_tokenizer(tmp_path).vocabulary.bos == 1
    names.write_text(json.dumps({"bos_token": "<nowhere>"}))
    with pytest.raises(ValueError, match="<nowhere>"):
        load_tokenizer(tmp_path)


def test_text8_ids_are_the_recorded_ones():
    tokenizer = text8_tokenizer()
    recorded = GOLDEN["text8"]["map"]
    assert {symbol: n for n, symbol in enumerate(tokenizer.symbols)} == recorded
    assert tokenizer.vocabulary.size == GOLDEN["text8"]["vocab_size"]
    assert GOLDEN["text8"]["mask_token_id"] in tokenizer.vocabulary.forbidden
    assert tokenizer.encode("a z!") == [8, 34, 33, 7]
    assert tokenizer.decode([2, 8, 34, 33, 3]) == "a z"


def test_symbols_the_longest_first():
    smiles = ["CCl", "C[nH]Br", "ClC"]
    tokenizer = learn_symbols(smiles, r"Br|Cl|\[[^]]*\]")
    assert tokenizer.symbols[:4] == ("Br", "C", "Cl", "[nH]")
    assert [tokenizer.decode(tokenizer.encode(text)) for text in smiles] == smiles
    assert tokenizer.encode("ClCBr") == [2, 1, 0]
    assert tokenizer.pieces([2, 1, 4]) == [b"Cl", b"C", b""]
    with pytest.raises(ValueError, match="'X'"):
        tokenizer.encode("CX")


def test_words_with_a_separator():
    tokenizer = learn_words(["C4 E4 G4", "C4  rest"], " ")
    assert tokenizer.symbols[:4] == ("C4", "E4", "G4", "rest")
    assert tokenizer.encode("rest C4 C4") == [3, 0, 0]
    assert tokenizer.decode([4, 3, 0, 5]) == "rest C4"
    assert tokenizer.pieces([4, 3, 5, 0, 0]) == [b"", b"rest", b"", b" C4", b" C4"]
    with pytest.raises(ValueError, match="C5"):
        tokenizer.encode("C5")


def test_characters_learned_from_text_are_the_alphabet():
    tokenizer = learn_symbols(["ba\n", "日"])
    assert tokenizer.symbols == ("\n", "a", "b", "日", "[BOS]", "[EOS]", "[PAD]")
    assert tokenizer.decode(tokenizer.encode("日\nab")) == "日\nab"
    with pytest.raises(ValueError, match="empty"):
        learn_symbols([""])
    with pytest.raises(ValueError, match="regular expression"):
        learn_symbols(["a"], "(")


def test_bad_symbol_lists():
    with pytest.raises(ValueError, match="'a'"):
        symbol_tokenizer(["a", "b", "a"])
    with pytest.raises(ValueError, match="separator"):
        SymbolTokenizer(("a b",), (), " ")


def test_bad_places(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="no tokenizer at"):
        load_tokenizer(tmp_path / "nowhere" / "tokenizer.json")
    with pytest.raises(ValueError, match="holds no tokenizer"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"kind": "symb')
    with pytest.raises(ValueError, match="not valid JSON"):
        load_tokenizer(tmp_path)
    for content in ('{"kind": "symbols"}', '{"model": {}}', "[1]"):
        (tmp_path / "tokenizer.json").write_text(content)
        with pytest.raises(ValueError, match="cannot be used"):
            load_tokenizer(tmp_path)


def test_a_hub_name_offline_is_one_sentence(monkeypatch):
    import huggingface_hub

    def offline(*args, **kwargs):
        raise OSError("cannot reach the Hub\nmore lines")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(ValueError, match=r"'gpt2'.*cannot reach the Hub.*go online") as caught:
        load_tokenizer("gpt2")
    assert "\n" not in str(caught.value)


def test_a_hub_name_is_fetched(monkeypatch, tmp_path, bpe):
    import huggingface_hub

    bpe.save(tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **_: str(tmp_path))
    assert load_tokenizer("somebody/some-tokenizer").hash == bpe.hash


def test_vocabulary_checks_its_ids():
    with pytest.raises(ValueError, match="eos is 5"):
        Vocabulary(5, eos=5)
    with pytest.raises(ValueError, match="forbidden"):
        Vocabulary(2, forbidden=(0, 1))
    assert Vocabulary(5, eos=3).filler == 3 and Vocabulary(5).filler == 0


def test_a_path_is_not_mistaken_for_documents():
    with pytest.raises(ValueError, match="texts is the one string 'corpus'; give a list of documents"):
        train_bpe("corpus", 400)
