"""What a training will cost, against counts by hand and a real pass."""

import torch
from torch import nn

from stages.models.denoiser import Condition, Denoiser, denoiser_config
from stages.training.estimate import BACKWARD, count, describe, duration, measured_speed, peak_speed


def test_operations_and_kept_activations_of_a_known_network():
    with torch.device("meta"):
        model = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 2, 1))
        cost = count(model, lambda: model(torch.empty(1, 4, 16, 16)))
    assert cost.parameters == 4 * 8 * 9 + 8 + 16 + 2
    assert cost.forward_flops == 2 * 256 * (4 * 8 * 9 + 8 * 2)  # a multiplication and an addition
    # the first convolution keeps its input, the ReLU its output, which is the last one's input
    assert cost.activation_bytes == 256 * 4 * (4 + 8)
    assert cost.memory(3) == cost.parameters * 20 + 3 * cost.activation_bytes


def test_counting_without_weights_counts_as_with_them():
    costs = []
    for where in ("meta", "cpu"):
        with torch.device(where):
            model = Denoiser(denoiser_config("tiny", latent_channels=4, audio_features=29))
            z = [torch.zeros(1, 4, 8, 8) for _ in range(3)]
            condition = Condition(z[1], z[2], torch.zeros(1, 8, 16, 29), torch.zeros(1, 39, 2), torch.zeros(1, 4))
            t = torch.zeros(1, dtype=torch.long)
            costs.append(count(model, lambda: model(z[0], t, condition)))  # noqa: B023 - called at once
    assert costs[0].parameters == costs[1].parameters
    assert abs(costs[0].forward_flops / costs[1].forward_flops - 1) < 0.02  # a fused attention is counted by another formula
    assert abs(costs[0].activation_bytes / costs[1].activation_bytes - 1) < 0.3  # other kernels keep other things


def test_the_forecast_names_parameters_memory_and_time():
    with torch.device("meta"):
        model = nn.Linear(1000, 1000)
        cost = count(model, lambda: model(torch.empty(1, 1000)))
    lines = describe(cost, batch=10, samples=5, steps=3600, speed=cost.step_flops * 10.0, half=False, where="cpu")
    assert "1,001,000 parameters" in lines[0] and "5 samples" in lines[1] and "about 60.0 min for 3,600 steps of 10" in lines[2]
    assert BACKWARD == 2
    assert [duration(s) for s in (5, 120, 7200, 864_000)] == ["5 s", "2.0 min", "2.0 h", "10.0 days"]


def test_speed_is_measured_and_a_cpu_has_no_data_sheet():
    assert measured_speed(torch.device("cpu"), seconds=0.01) > 1e8
    assert peak_speed(torch.device("cpu")) is None
