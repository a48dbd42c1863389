"""transformers' recurrent models with random weights: outputs, losses, gradients and generation with and without us."""

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: pip install torch==2.13.0")
transformers = pytest.importorskip("transformers", reason="transformers is not installed: pip install transformers")

from fusedrnn.interop import transformers as bridge  # noqa: E402  both must be there
from fusedrnn.interop.transformers import accelerate  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")

SMALL: dict[str, Any] = {"vocab_size": 37, "hidden_size": 16, "num_hidden_layers": 2}
ATTENTION = {"num_attention_heads": 2, "num_key_value_heads": 2, "intermediate_size": 24}
MAMBA2 = {"n_groups": 2, "head_dim": 8, "num_heads": 4, "state_size": 5, "chunk_size": 4}
OF_MAMBA2 = {"mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 5, "mamba_n_groups": 2, "mamba_chunk_size": 4}

#: Model type -> options of its configuration, beside SMALL.
MODELS: dict[str, dict[str, Any]] = {
    "mamba": {"state_size": 5},
    "mamba2": MAMBA2,
    "falcon_mamba": {"state_size": 5},
    "jamba": ATTENTION | {
        "mamba_d_state": 5, "mamba_dt_rank": 3, "attn_layer_period": 2, "attn_layer_offset": 1, "num_experts": 2,
        "num_experts_per_tok": 1, "expert_layer_period": 2, "expert_layer_offset": 1, "use_mamba_kernels": False,
    },
    "bamba": ATTENTION | OF_MAMBA2 | {"attn_layer_indices": [1], "num_hidden_layers": 2},
    "zamba": ATTENTION | {
        "num_hidden_layers": 6, "mamba_d_state": 5, "mamba_dt_rank": 3, "n_mamba_heads": 2, "attn_layer_period": 2,
        "attn_layer_offset": 1, "use_mamba_kernels": False, "attention_head_dim": 16,
    },
    "zamba2": ATTENTION | {
        "num_hidden_layers": 2, "mamba_d_state": 5, "mamba_headdim": 8, "mamba_ngroups": 2, "n_mamba_heads": 4,
        "mamba_expand": 2, "chunk_size": 4, "layers_block_type": ["mamba", "hybrid"], "num_mem_blocks": 1,
    },
    "recurrent_gemma": ATTENTION | {
        "num_hidden_layers": 3, "lru_width": 16, "attention_window_size": 8, "num_key_value_heads": 1, "head_dim": 8,
    },
    "qwen3_next": ATTENTION | {
        "head_dim": 8, "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 4,
        "linear_value_head_dim": 6, "num_experts": 3, "num_experts_per_tok": 2, "moe_intermediate_size": 8,
        "shared_expert_intermediate_size": 8, "layer_types": ["linear_attention", "full_attention"],
    },
}  # fmt: skip
KINDS = pytest.mark.parametrize("kind", MODELS)


def model_of(kind: str) -> Any:
    """A model of random weights, none of which is zero."""
    torch.manual_seed(0)
    options = SMALL | {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2} | MODELS[kind]
    config = transformers.AutoConfig.for_model(kind, **options)
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model


def compare(mine: Any, theirs: Any, what: str, scale: float | None = None) -> None:
    """Equal up to rounding, in proportion to `scale`, which is the largest element if not given."""
    assert mine.shape == theirs.shape
    scale = scale or float(theirs.detach().abs().max()) or 1.0
    np.testing.assert_allclose(mine.detach(), theirs.detach(), rtol=0, atol=5e-5 * scale, err_msg=what)


@KINDS
def test_outputs_losses_and_gradients(kind):
    model = model_of(kind)
    ids = torch.randint(3, 37, (2, 11))

    def run(training: bool) -> tuple[Any, dict[str, Any]]:
        model.train(training)
        model.zero_grad()
        result = model(ids, labels=ids, use_cache=False)
        result.loss.backward()
        return result, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    for training in (False, True):
        torch.manual_seed(1)
        theirs, their_gradients = run(training)
        torch.manual_seed(1)
        with accelerate([kind]) as changed:
            assert changed.replaced
            ours, gradients = run(training)
        compare(ours.logits, theirs.logits, "logits")
        compare(ours.loss, theirs.loss, "loss")
        assert gradients.keys() == their_gradients.keys()
        assert len(gradients) > 10
        # A decay's gradient is the difference of sums over queries and keys, and rounding is in proportion to these:
        # see `linear_attention_backward`. The strong decays of new models make the difference small.
        nearby = [g for name, g in their_gradients.items() if "linear_attn" in name]
        largest = max([float(g.abs().max()) for g in nearby], default=0.0)
        for name, gradient in gradients.items():
            of_decay = name.endswith(("linear_attn.A_log", "linear_attn.dt_bias"))
            compare(gradient, their_gradients[name], name, largest if of_decay else None)


@KINDS
def test_greedy_generation(kind):
    model = model_of(kind).eval()
    ids = torch.randint(3, 37, (2, 7))
    options = {
        "max_new_tokens": 12, "do_sample": False, "return_dict_in_generate": True, "output_logits": True,
        "eos_token_id": None,
    }  # fmt: skip
    theirs = model.generate(ids, **options)
    with accelerate([kind]):
        ours = model.generate(ids, **options)
    assert torch.equal(ours.sequences, theirs.sequences)
    for k, (mine, other) in enumerate(zip(ours.logits, theirs.logits, strict=True)):
        compare(mine, other, f"logits of token {k}")


@pytest.mark.parametrize("kind", ["mamba", "mamba2", "qwen3_next"])
def test_padding_on_the_left(kind):
    model = model_of(kind).eval()
    ids = torch.randint(3, 37, (2, 9))
    mask = torch.ones_like(ids)
    mask[0, :4] = 0
    theirs = model(ids, attention_mask=mask).logits
    with accelerate([kind]):
        ours = model(ids, attention_mask=mask).logits
    compare(ours, theirs, "logits")


def test_the_kernels_run(monkeypatch):
    calls = []
    kept = bridge.OURS["mamba_selective_scan"]
    monkeypatch.setitem(bridge.OURS, "mamba_selective_scan", lambda *a, **k: calls.append(1) or kept(*a, **k))
    model = model_of("mamba")
    with accelerate(["mamba"]):
        model(torch.tensor([[3, 4, 5]]))
    model(torch.tensor([[3, 4, 5]]))
    assert len(calls) == 2, "one call for each of two layers"


def test_everything_is_put_back():
    from transformers.models.mamba import modeling_mamba

    before = dict(vars(modeling_mamba))
    with accelerate(["mamba"]) as first:
        assert first.replaced == tuple(
            f"transformers.models.mamba.modeling_mamba.{name}" for name in bridge.MODELS["mamba"]
        )
        assert repr(first) == "<Acceleration of mamba: 4 functions>"
        second = accelerate(["mamba", "mamba2"])
        assert len(second.replaced) == 4, "only those of mamba2"
        second.undo()
        assert modeling_mamba.mamba_selective_scan is not before["mamba_selective_scan"]
    assert vars(modeling_mamba) == before
    first.undo()
    assert repr(first) == "<Acceleration of nothing: 0 functions>"


def test_every_model_is_known_to_this_transformers():
    with accelerate() as changed:
        assert len(changed.replaced) == sum(map(len, bridge.MODELS.values()))
    assert changed.replaced == ()


def test_half_precision():
    model = model_of("mamba").bfloat16().eval()
    ids = torch.randint(3, 37, (2, 9))
    theirs = model(ids).logits
    with accelerate(["mamba"]):
        ours = model(ids).logits
    assert ours.dtype == theirs.dtype
    np.testing.assert_allclose(ours.detach(), theirs.detach(), rtol=0, atol=0.05 * float(theirs.abs().max()))


def test_other_activations_stay_with_transformers():
    torch.manual_seed(0)
    config = transformers.MambaConfig(**SMALL, state_size=5, hidden_act="gelu")
    model, ids = transformers.MambaForCausalLM(config), torch.randint(3, 37, (2, 9))
    theirs = model(ids).logits
    with accelerate(["mamba"]):
        compare(model(ids).logits, theirs, "logits")


def test_another_version_is_refused(monkeypatch):
    from transformers.models.mamba import modeling_mamba

    before = modeling_mamba.causal_conv1d_fn
    monkeypatch.setattr(modeling_mamba, "mamba_selective_scan", lambda hidden_states, dt, gamma: None)
    with pytest.raises(
        ImportError, match=r"mamba_selective_scan\(hidden_states, dt, gamma\); this version of fusedrnn"
    ):
        accelerate(["mamba"])
    assert modeling_mamba.causal_conv1d_fn is before, "nothing was replaced"
    monkeypatch.delattr(modeling_mamba, "mamba_selective_scan")
    with pytest.raises(ImportError, match=r"has no transformers\.models\.mamba\.modeling_mamba\.mamba_selective_scan"):
        accelerate(["mamba"])


def test_an_unknown_model_is_refused():
    with pytest.raises(ValueError, match="models names 'gpt2'; expected some of 'bamba', 'falcon_h1'"):
        accelerate(["gpt2"])
