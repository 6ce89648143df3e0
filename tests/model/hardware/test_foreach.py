import pytest
import torch

from model.hardware import foreach

A = [torch.tensor([1.0, -2.0]), torch.tensor([[0.5]])]
B = [torch.tensor([3.0, 5.0]), torch.tensor([[-4.0]])]


def copies(tensors):
    return [tensor.clone() for tensor in tensors]


@pytest.mark.parametrize(
    ("name", "one"),
    [
        ("lerp", lambda a, b: a + 0.25 * (b - a)),
        ("mul", lambda a, b: a * b),
        ("sub", lambda a, b: a - b),
    ],
)
def test_an_operation_is_that_of_each_pair_and_changes_nothing(name, one):
    a, b = copies(A), copies(B)
    got = getattr(foreach, name)(a, b, *([0.25] if name == "lerp" else []))
    assert [tensor.tolist() for tensor in got] == [one(x, y).tolist() for x, y in zip(A, B, strict=True)]
    assert [t.tolist() for t in (*a, *b)] == [t.tolist() for t in (*A, *B)]


@pytest.mark.parametrize(
    ("name", "arguments", "one"),
    [
        ("add_", [B], lambda a, b: a + b),
        ("copy_", [B], lambda a, b: b),
        ("lerp_", [B, 0.25], lambda a, b: a + 0.25 * (b - a)),
        ("mul_", [3.0], lambda a, _: a * 3),
        ("mul_", [torch.tensor(3.0)], lambda a, _: a * 3),
        ("zero_", [], lambda a, _: a * 0),
    ],
)
def test_an_operation_in_place_is_that_of_each_pair(name, arguments, one):
    a = copies(A)
    getattr(foreach, name)(a, *arguments)
    assert [tensor.tolist() for tensor in a] == [one(x, y).tolist() for x, y in zip(A, B, strict=True)]


@pytest.mark.parametrize(
    ("last", "found"), [(8.0, 0.0), (float("inf"), 1.0), (float("nan"), 1.0), (float("-inf"), 1.0)]
)
def test_gradients_are_divided_by_the_scale_and_looked_through(last, found):
    gradients, overflow = [torch.tensor([2.0, 4.0]), torch.tensor([last])], torch.zeros(())
    foreach.unscale_(gradients, overflow, torch.tensor(0.5))
    assert gradients[0].tolist() == [1.0, 2.0]
    assert overflow.item() == found
