"""Mamba against transformers' MambaMixer: outputs, gradients of everything, and steps with a cache."""

import numpy as np
import pytest

import fusedrnn

torch = pytest.importorskip("torch", reason="torch is not installed: pip install torch==2.13.0")
transformers = pytest.importorskip("transformers", reason="transformers is not installed: pip install transformers")

from transformers.models.mamba.modeling_mamba import MambaMixer  # noqa: E402  both must be there

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")


@pytest.mark.parametrize("use_conv_bias", [False, True])
@pytest.mark.parametrize("use_bias", [False, True])
@pytest.mark.parametrize(("state_size", "conv_kernel", "expand"), [(16, 4, 2), (3, 2, 1)])
def test_mixer(state_size, conv_kernel, expand, use_bias, use_conv_bias):
    torch.manual_seed(0)
    config = transformers.MambaConfig(
        hidden_size=12, state_size=state_size, conv_kernel=conv_kernel, expand=expand, use_bias=use_bias,
        use_conv_bias=use_conv_bias, time_step_rank=2, num_hidden_layers=1, vocab_size=5,
    )  # fmt: skip
    mixer = MambaMixer(config, layer_idx=0)
    layer = fusedrnn.Mamba(
        12, state_size, conv_kernel, expand, 2, conv_bias=use_conv_bias, bias=use_bias, batch_first=True
    )
    layer.load_state_dict({name: value.numpy() for name, value in mixer.state_dict().items()})
    x = torch.randn(2, 20, 12, requires_grad=True)
    dy = torch.randn(2, 20, 12)
    theirs = mixer(x)
    theirs.backward(dy)
    y, _, tape = layer.forward(x.detach().numpy())
    grads = tape.backward(dy.numpy())
    np.testing.assert_allclose(y, theirs.detach(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(grads.x, x.grad, rtol=1e-3, atol=1e-4 * float(x.grad.abs().max()))
    for name, parameter in mixer.named_parameters():
        scale = float(parameter.grad.abs().max())
        np.testing.assert_allclose(grads.params[name], parameter.grad, rtol=0, atol=1e-4 * scale, err_msg=name)
    back = {name: torch.from_numpy(value) for name, value in layer.state_dict().items()}
    mixer.load_state_dict(back)
    assert mixer.state_dict().keys() == back.keys()
