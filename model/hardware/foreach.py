"""torch's operations on whole lists of tensors: some kernels a list, where a loop would launch one or more a tensor.

torch's own optimizers are made of them, but their names are private. No other module uses such a name
(`tests/test_private_names.py`); the test of this one holds each against the torch that is installed.
"""

import torch

add_ = torch._foreach_add_
copy_ = torch._foreach_copy_
lerp = torch._foreach_lerp
lerp_ = torch._foreach_lerp_
mul = torch._foreach_mul
mul_ = torch._foreach_mul_
sub = torch._foreach_sub
zero_ = torch._foreach_zero_
unscale_ = torch._amp_foreach_non_finite_check_and_unscale_
"""(tensors, found, factor): multiplies all tensors by `factor`, and sets `found` to 1 where one is not finite."""
