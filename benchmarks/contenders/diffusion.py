"""A small diffusion U-Net (diffusers): cosine schedule, 50 DDIM steps.

It predicts velocities (Salimans and Ho, arXiv 2202.00512): after five minutes that was nearer than predicted noise.
"""

from __future__ import annotations

import math
import time

import torch
import torch.nn.functional as F
from common import Average, Clock, Contender, Data, autocast, main, rate
from diffusers import DDIMScheduler, DDPMScheduler, UNet2DModel

STEPS = 50
SCHEDULE = {"beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction"}


class Diffusion(Contender):
    def train(self, data: Data, clock: Clock) -> None:
        self.shape = (data.channels, data.side, data.side)
        deeper = int(math.log2(data.side / 32))  # attention is at 8x8
        self.model = UNet2DModel(
            sample_size=data.side,
            in_channels=data.channels,
            out_channels=data.channels,
            layers_per_block=1,
            block_out_channels=(32, 64, 96, 128)[: 3 + deeper],
            down_block_types=(*["DownBlock2D"] * (2 + deeper), "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", *["UpBlock2D"] * (2 + deeper)),
            norm_num_groups=8,
            attention_head_dim=32,  # heads of 8, the default, take most of a step's time on a CPU
        ).to(memory_format=torch.channels_last)
        noising = DDPMScheduler(1000, **SCHEDULE)
        optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3, weight_decay=0.0, fused=True)
        average, size, started = Average(self.model), 64, time.monotonic()
        for step, batch in enumerate(data.batches(size)):
            if clock.spent() >= 1:
                break
            images, noise = 2 * batch - 1, torch.randn_like(batch)
            times = torch.randint(1000, (size,))
            noisy = noising.add_noise(images, noise, times).contiguous(memory_format=torch.channels_last)
            with autocast():
                predicted = self.model(noisy, times).sample
            loss = F.mse_loss(predicted.float(), noising.get_velocity(images, noise, times))
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            for group in optimizer.param_groups:
                group["lr"] = rate(1e-3, step, clock.spent())
            optimizer.step()
            average.update()
            self.seen += size
        self.training_seconds = time.monotonic() - started
        average.use()
        self.model.eval()

    def sample(self, count: int) -> torch.Tensor:
        scheduler = DDIMScheduler(1000, **SCHEDULE, clip_sample=True, timestep_spacing="trailing")
        scheduler.set_timesteps(STEPS)
        images = torch.randn(count, *self.shape).contiguous(memory_format=torch.channels_last)
        for now in scheduler.timesteps:
            with autocast():
                predicted = self.model(images, now).sample
            images = scheduler.step(predicted.float(), now, images).prev_sample
        return (images + 1) / 2

    def parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.model.parameters())


if __name__ == "__main__":
    main(Diffusion())
