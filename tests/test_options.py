"""The options of a case do what they say to the module, the loss, the optimizer and the learning rate."""

from __future__ import annotations

import copy
import shutil

import pytest

from harness.case import Case
from harness.plugins import BuiltModel, InputKind, OptimizerSpec


def _case(options: str, gpus: int = 1) -> Case:
    return Case.parse(f"net-ddp-{gpus}gpu-bs4{options}")


def _built() -> BuiltModel:
    import torch
    from torch import nn

    class Block(nn.Module):
        def __init__(self, inputs: int, outputs: int) -> None:
            super().__init__()
            self.conv = nn.Conv2d(inputs, outputs, 3, padding=1)
            self.norm = nn.BatchNorm2d(outputs)
            self.drop = nn.Dropout(0.5)

        def forward(self, x):
            return self.drop(self.norm(self.conv(x)).relu())

    torch.manual_seed(0)
    module = nn.Sequential(Block(3, 4), Block(4, 4), nn.Flatten(), nn.Linear(4 * 64, 10))
    return BuiltModel(module=module, blocks=(Block,), weights="")


def _batch():
    import torch

    generator = torch.Generator().manual_seed(1)
    return torch.randn(4, 3, 8, 8, generator=generator), torch.arange(4)


def _trained(module, case: Case):
    """Return the loss of a backward on the batch, the gradients and the buffers after it."""
    import torch

    from harness.worker import options

    torch.manual_seed(2)
    loss = options.loss(InputKind.IMAGES, case, "cpu")(module, _batch())
    loss.backward()
    return loss, [p.grad for p in module.parameters()], [b.clone() for b in module.buffers()]


def _prepared(options_: str) -> tuple[BuiltModel, Case]:
    from harness.worker import options

    built, case = _built(), _case(options_)
    options.prepare(built, case)
    return built, case


# ------------------------------------------------------------------------------------------------- learning rate


def _rates(options_: str, updates: int) -> list[float]:
    import torch

    from harness.worker import options

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    schedule = options.schedule(optimizer, _case(options_), steps=updates)
    rates = []
    for _ in range(updates):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if schedule is not None:
            schedule.step()
    return rates


@pytest.mark.parametrize(
    ("options", "rates"),
    [
        ("", [0.5, 0.5, 0.5, 0.5]),
        ("-warmup2", [0.25, 0.5, 0.5, 0.5]),
        ("-linear", [0.5, 0.375, 0.25, 0.125]),
        ("-linear-warmup2", [0.25, 0.5, 0.5 * 2 / 3, 0.5 / 3]),
        ("-cosine", [0.5, 0.25 * (1 + 0.5**0.5), 0.25, 0.25 * (1 - 0.5**0.5)]),
        ("-cosine-warmup3", [0.5 / 3, 1 / 3, 0.5, 0.25]),
        ("-linear-warmup4", [0.125, 0.25, 0.375, 0.5]),
        ("-cosine-warmup8", [0.0625, 0.125, 0.1875, 0.25]),
    ],
)
def test_the_learning_rate_of_each_update_is_as_stated(options, rates):
    assert _rates(options, 4) == pytest.approx(rates)


def test_a_constant_rate_needs_no_schedule():
    import torch

    from harness.worker import options

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    assert options.schedule(optimizer, _case(""), steps=4) is None


def test_the_rate_is_scaled_with_the_gpus_and_the_rest_of_the_optimizer_stays():
    from harness.worker import options

    spec = OptimizerSpec(name="sgd", arguments={"lr": 0.5, "momentum": 0.9})
    assert options.optimizer(spec, _case("-lrscale", gpus=4)).arguments == {"lr": 2.0, "momentum": 0.9}
    assert options.optimizer(spec, _case("", gpus=4)) == spec
    assert spec.arguments["lr"] == 0.5
    assert options.optimizer(OptimizerSpec(name="adamw"), _case("-lrscale", gpus=4)).arguments == {"lr": 4e-3}


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_the_learning_rate_that_is_scaled_where_none_is_given_is_torchs_own(name):
    import torch

    spec = OptimizerSpec(name=name)
    assert spec.make([torch.nn.Parameter(torch.zeros(1))]).defaults["lr"] == 1e-3


def test_fused_reaches_the_torch_optimizer():
    import torch

    from harness.worker import options

    spec = options.optimizer(OptimizerSpec(name="adamw", arguments={"lr": 0.5}), _case("-fused"))
    assert spec.make([torch.nn.Parameter(torch.zeros(1))]).defaults["fused"] is True


# ---------------------------------------------------------------------------------------------------- the module


def test_checkpointing_changes_no_bit_of_loss_gradients_and_buffers_and_no_name():
    import torch

    plain, ours = _built(), _prepared("-ckpt")[0]
    assert list(ours.module.state_dict()) == list(plain.module.state_dict())
    for found, wanted in zip(_trained(ours.module, _case("")), _trained(plain.module, _case("")), strict=True):
        for one, other in zip(found, wanted, strict=True) if isinstance(found, list) else [(found, wanted)]:
            assert torch.equal(one, other)


def test_checkpointing_computes_each_block_again_in_backward():
    built, case = _prepared("-ckpt")
    calls = []
    for block in built.module[:2]:
        block.conv.register_forward_hook(lambda *_: calls.append(1))
    _trained(built.module, case)
    assert len(calls) == 4


@pytest.mark.parametrize("option", ["-ckpt", "-compile"])
def test_a_deep_copy_computes_with_its_own_weights(option):
    import torch

    built, _ = _prepared(option)
    other = copy.deepcopy(built.module).eval()
    with torch.no_grad():
        before = other(_batch()[0])
        built.module[0].conv.weight.zero_()
        assert torch.equal(other(_batch()[0]), before)


def test_channels_last_is_the_format_of_weights_and_images():
    import torch

    built, case = _prepared("-chlast")
    seen = []
    built.module[0].conv.register_forward_pre_hook(lambda conv, inputs: seen.extend([conv.weight, inputs[0]]))
    _trained(built.module, case)
    assert [tensor.is_contiguous(memory_format=torch.channels_last) for tensor in seen] == [True, True]
    others = (_built().module[0].conv.weight, _batch()[0])
    assert not any(tensor.is_contiguous(memory_format=torch.channels_last) for tensor in others)


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
def test_every_block_is_compiled_for_training_alone_and_computes_the_same():
    import torch
    from torch._dynamo.testing import CompileCounterWithBackend

    from harness.worker import options

    counter = CompileCounterWithBackend("inductor")
    compile_ = torch.compile
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "compile", lambda function, **how: compile_(function, backend=counter, **how))
        ours, case = _built(), _case("-compile")
        for module in (ours.module, plain := _built().module):
            for block in module[:2]:
                block.drop.p = 0.0
        options.prepare(ours, case)
        with torch.no_grad():
            copy.deepcopy(ours.module).eval()(_batch()[0])
        assert counter.frame_count == 0
        loss, gradients, _ = _trained(ours.module, case)
    assert counter.frame_count == 2
    torch.testing.assert_close((loss, gradients), _trained(plain, _case(""))[:2])


# ------------------------------------------------------------------------------------------------------ the loss


@pytest.mark.parametrize(("option", "dtype"), [("", "float32"), ("-bf16", "bfloat16"), ("-fp16", "float16")])
def test_blocks_compute_in_the_cases_precision_and_parameters_stay_fp32(option, dtype):
    import torch

    built, case = _prepared(option)
    seen = []
    built.module[1].conv.register_forward_hook(lambda conv, inputs, output: seen.append(output.dtype))
    loss, gradients, _ = _trained(built.module, case)
    assert seen == [getattr(torch, dtype)]
    assert {loss.dtype, *(p.dtype for p in built.module.parameters()), *(g.dtype for g in gradients)} == {torch.float32}


def test_no_cast_of_a_weight_is_kept_for_a_second_use():
    import torch

    built, case = _prepared("-bf16")
    seen = []
    built.module[1].register_forward_pre_hook(lambda *_: seen.append(torch.is_autocast_cache_enabled()))
    _trained(built.module, case)
    assert seen == [False]


def test_a_plain_case_has_the_plain_loss():
    from harness.worker import options
    from harness.worker.training import LOSSES

    for kind in InputKind:
        assert options.loss(kind, _case(""), "cpu") is LOSSES[kind]
