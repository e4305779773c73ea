"""torch tensors: values, first and second derivatives in both arguments, torch.func, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gpu import iv_ratio, log_iv, log_ive, log_kv, log_kve

# torch's own forward mode still goes through it.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
LOGS = [log_iv, log_ive, log_kv, log_kve]


def arguments(count: int = 14) -> tuple[torch.Tensor, torch.Tensor]:
    """Orders and arguments in every regime, away from their borders by more than a step of a difference."""
    rng = np.random.default_rng(21)
    v = torch.tensor(rng.uniform(0.1, 30, count), dtype=torch.float64)
    x = torch.tensor(rng.uniform(0.1, 40, count), dtype=torch.float64)
    v[:4], x[:4] = torch.tensor([0.3, 0.2, 2.7, 6.1]), torch.tensor([0.5, 1.6, 0.8, 3.2])
    return v.requires_grad_(), x.requires_grad_()


@pytest.mark.parametrize("function", LOGS)
def test_both_derivatives_pass_gradcheck(function):
    v, x = arguments()
    assert torch.autograd.gradcheck(function, (v, x), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(function, (v, x), check_fwd_over_rev=True)


def test_gradients_of_broadcast_arguments_add_up():
    v = torch.tensor([[1.0], [4.5]], dtype=torch.float64, requires_grad=True)
    x = torch.tensor([0.5, 2.0, 9.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(log_kv, (v, x))
    assert torch.autograd.gradgradcheck(log_kv, (v, x))


def test_vmap_grad_and_hessian_agree_with_one_by_one():
    v, x = (tensor.detach() for tensor in arguments(5))
    both = torch.stack([v, x], 1)
    hessians = torch.func.vmap(torch.func.hessian(lambda t: log_iv(t[0], t[1])))(both)
    gradients = torch.func.vmap(torch.func.grad(log_iv, argnums=(0, 1)))(v, x)
    for i in range(5):
        one = torch.func.hessian(lambda t: log_iv(t[0], t[1]))(both[i])
        torch.testing.assert_close(hessians[i], one, rtol=1e-14, atol=0)
        a, b = both[i, 0].requires_grad_(), both[i, 1].requires_grad_()
        expected = torch.autograd.grad(log_iv(a, b), (a, b))
        torch.testing.assert_close((gradients[0][i], gradients[1][i]), expected, rtol=1e-14, atol=0)


def test_vmap_over_one_argument_broadcasts_the_other():
    v, x = torch.arange(3.0), torch.linspace(1, 2, 4)
    mapped = torch.func.vmap(lambda order: log_kv(order, x))(v)
    torch.testing.assert_close(mapped, log_kv(v[:, None], x), rtol=0, atol=0)
    last = torch.func.vmap(log_kv, in_dims=(None, 1), out_dims=1)(v, torch.outer(torch.arange(1.0, 4), x))
    torch.testing.assert_close(last, log_kv(v[:, None], torch.outer(torch.arange(1.0, 4), x)), rtol=0, atol=0)


def test_values_and_dtypes_are_those_of_numpy():
    v, x = (tensor.detach() for tensor in arguments())
    for function in (*LOGS, iv_ratio):
        np.testing.assert_array_equal(function(v, x).numpy(), function(v.numpy(), x.numpy()))
    assert log_iv(torch.tensor([1.0]), 2).dtype == torch.float32
    assert log_iv(torch.tensor([1], dtype=torch.int64), torch.tensor(2.0, dtype=torch.float64)).dtype == torch.float64
    assert log_iv(2, torch.tensor(3.0, dtype=torch.float64)).shape == ()


def test_a_third_derivative_is_refused():
    v, x = arguments(4)
    first = torch.autograd.grad(log_kv(v, x).sum(), x, create_graph=True)[0]
    second = torch.autograd.grad(first.sum(), x, create_graph=True)[0]
    with pytest.raises(NotImplementedError, match="log_kv can be differentiated 2 times"):
        torch.autograd.grad(second.sum(), x)


def test_wrong_tensors_are_refused_by_name():
    tensor = torch.ones(3)
    with pytest.raises(TypeError, match="all arrays must be of one library; v is of torch, x is of numpy"):
        log_iv(tensor, np.ones(3))
    with pytest.raises(TypeError, match="x of log_iv must be real; got torch.complex64"):
        log_iv(tensor, tensor * 1j)
    with pytest.raises(ValueError, match=r"must broadcast; got shapes \(3,\) and \(4,\)"):
        log_iv(tensor, torch.ones(4))
    with pytest.raises(TypeError, match="out is not for torch tensors"):
        log_iv(tensor, tensor, out=torch.ones(3))
    with pytest.raises(TypeError, match="where is for NumPy arrays only"):
        log_iv(tensor, tensor, where=tensor > 0)
    with pytest.raises(TypeError, match="all tensors must be on one device; v is on cpu, x is on meta"):
        log_iv(tensor, tensor.to("meta"))
    with pytest.raises(TypeError, match="must be on the CPU or a CUDA device; got meta"):
        log_iv(tensor.to("meta"), tensor.to("meta"))
    with pytest.raises(TypeError, match="iv_ratio is not differentiable"):
        iv_ratio(tensor, tensor.clone().requires_grad_())


@pytest.mark.gpu
def test_cuda_tensors_are_differentiated_in_place():
    pytest.importorskip("cupy", reason="needs CuPy: pip install 'skysolve[gpu-cuda13]'")
    v, x = (tensor.detach().cuda().requires_grad_() for tensor in arguments())
    on_cpu = arguments()
    torch.testing.assert_close(log_iv(v, x).cpu(), log_iv(*on_cpu), rtol=1e-15, atol=1e-15)
    assert torch.autograd.gradcheck(log_iv, (v, x))
    assert torch.autograd.gradgradcheck(log_iv, (v, x))


def test_half_precision_tensors_give_single_and_integers_the_default():
    for dtype in (torch.float16, torch.bfloat16):
        got = log_iv(torch.tensor([1.0, 2.0], dtype=dtype), 2.0)
        assert got.dtype == torch.float32
        np.testing.assert_array_equal(got.numpy(), log_iv(np.float32([1, 2]), np.float32(2)))
    assert log_iv(torch.tensor([1, 2]), torch.tensor([1, 2])).dtype == torch.get_default_dtype()


@pytest.mark.parametrize("other", [[0.1, 2.3, 300.1], (1, 2, 3), np.array(0.1), np.float32(2), 0.1, 2])
def test_lists_and_numbers_take_the_dtype_of_the_tensor(other):
    for dtype in (torch.float32, torch.float64):
        x = torch.tensor([0.5, 1.0, 7.0], dtype=dtype)
        got = log_iv(other, x)
        assert got.dtype == dtype
        np.testing.assert_array_equal(got.numpy(), log_iv(np.asarray(other, x.numpy().dtype), x.numpy()))
        np.testing.assert_array_equal(log_iv(x, other).numpy(), log_iv(x.numpy(), np.asarray(other, x.numpy().dtype)))
    assert log_iv([0.1, 0.2], torch.tensor(1.0, dtype=torch.float64)).dtype == torch.float64
    with pytest.raises(TypeError, match="v of log_iv must be real; got complex"):
        log_iv([1j], x)
