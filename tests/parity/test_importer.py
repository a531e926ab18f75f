"""Released weights into native models: names, shapes, wrappers, EMA."""
from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from maskless.checkpoints.reference.importer import import_state
from maskless.checkpoints.reference.names import DIT, PARTITION, native_name, stripped
from maskless.models import AutoregressiveConfig, MaskedConfig, PartitionConfig

GOLDEN = Path(__file__).parents[1] / "golden"


def weights(name: str) -> dict[str, torch.Tensor]:
    found = load_file(GOLDEN / f"{name}.safetensors")
    return {key.removeprefix("param/"): value for key, value in found.items() if key.startswith("param/")}


def test_names():
    assert native_name("encoder.blocks.11.attn_qkv.weight", PARTITION) == "encoder.11.attention.qkv.weight"
    assert native_name("decoder.layers.3.mlp.2.bias", PARTITION) == "decoder.3.mlp.down.bias"
    assert native_name("decoder.group_swap.query_processor.2.weight", PARTITION) == "swap.process.2.weight"
    assert native_name("blocks.0.adaLN_modulation.weight", DIT) == "blocks.0.ada.weight"
    assert stripped("backbone.backbone._orig_mod.vocab_embed.embedding") == "vocab_embed.embedding"
    for key in ("blocks.0.surprise.weight", "head", "blocks.0.norm1.running_mean"):
        with pytest.raises(ValueError, match="unknown parameter"):
            native_name(key, DIT)


def test_sizes_come_from_shapes():
    masked = import_state(weights("text_mdlm_orig")).config
    assert masked == MaskedConfig(28, width=32, heads=4, layers=2, cond_dim=16, mask_id=27, forbidden=(27,))
    partition = import_state(weights("text_pgm_backbone_mlp4"), mask_id=3).config
    assert partition == PartitionConfig(
        28, width=32, heads=4, encoder_layers=1, decoder_layers=1, cond_dim=16, query_mlp=True, forbidden=(3,))
    left = import_state(weights("text_ar")).config
    assert left == AutoregressiveConfig(28, width=32, heads=4, layers=2, forbidden=(27,))


def test_wrappers_are_stripped():
    plain = weights("text_mdlm_orig")
    wrapped = {f"backbone.backbone._orig_mod.{key}": value for key, value in plain.items()}
    one, two = import_state(plain).state_dict(), import_state(wrapped).state_dict()
    assert all(torch.equal(one[key], two[key]) for key in one)


@pytest.mark.parametrize(("change", "message"), [
    (lambda w: w.pop("blocks.0.norm1.weight"), "missing"),
    (lambda w: w.update({"blocks.0.norm1.weight": torch.zeros(3)}), "has shape"),
    (lambda w: w.update({"rotary_emb.inv_freq": torch.ones(4)}), "other positions"),
    (lambda w: w.update({"blocks.0.rotary.weight": torch.ones(4)}), "unknown parameter"),
    (lambda w: w.update({"backbone.output_layer.linear.bias": torch.ones(28)}), "one name"),
    (lambda w: w.pop("vocab_embed.embedding"), "no vocab_embed"),
    (lambda w: w.pop("rotary_emb.inv_freq"), "number of heads"),
])
def test_what_does_not_fit_is_refused(change, message):
    state = weights("text_mdlm_orig")
    change(state)
    with pytest.raises(ValueError, match=message):
        import_state(state)


def test_settings_must_agree_with_shapes():
    with pytest.raises(ValueError, match="the configuration says width 64"):
        import_state(weights("text_mdlm_orig"), {"hidden_size": 64})
    with pytest.raises(ValueError, match="pre_query_mode 'guess'"):
        import_state(weights("text_pgm_loss"), {"swap": {"pre_query_mode": "guess"}})
    without = weights("text_mdlm_orig")
    del without["rotary_emb.inv_freq"]
    assert import_state(without, {"n_heads": 4}).config.heads == import_state(without, heads=4).config.heads == 4
