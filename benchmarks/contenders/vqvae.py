"""A VQ-VAE (vector-quantize-pytorch) with a causal transformer over its codes (x-transformers).

8x8 codes of 256 at 32x32: 64 bytes an image; 16x16, 256 bytes, at 64x64. Three fifths of the budget go to the
autoencoder, the rest to the transformer; samples are drawn at temperature 1, where they are nearer than at 0.7.
"""

from __future__ import annotations

import time
from pathlib import Path

import torch
import torch.nn.functional as F
from common import Average, Clock, Contender, Data, autocast, draw, main, rate, save
from torch import Tensor, nn
from vector_quantize_pytorch import VectorQuantize
from x_transformers import AutoregressiveWrapper, Decoder, TransformerWrapper

CODEBOOK, WIDTH = 256, 96
AUTOENCODER_SHARE = 0.6


class Block(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.body = nn.Sequential(
            nn.GroupNorm(8, width),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class VQVAE(nn.Module):
    def __init__(self, channels: int, side: int) -> None:
        super().__init__()
        self.side = side // 4
        self.encoder = nn.Sequential(
            nn.Conv2d(channels, 48, 4, 2, 1), nn.SiLU(), nn.Conv2d(48, WIDTH, 4, 2, 1), Block(WIDTH), Block(WIDTH)
        )
        self.to_code = nn.Conv2d(WIDTH, 16, 1)
        self.quantize = VectorQuantize(
            dim=16,
            codebook_size=CODEBOOK,
            decay=0.99,
            commitment_weight=0.005,  # errors of pixels in [0, 1] are small beside those of codes
            kmeans_init=True,
            threshold_ema_dead_code=2,
            accept_image_fmap=True,
        )
        self.from_code = nn.Conv2d(16, WIDTH, 3, padding=1)
        self.decoder = nn.Sequential(
            Block(WIDTH),
            Block(WIDTH),
            nn.ConvTranspose2d(WIDTH, 48, 4, 2, 1),
            Block(48),
            nn.SiLU(),
            nn.ConvTranspose2d(48, channels, 4, 2, 1),
        )

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        features = self.to_code(self.encoder(images)).float()
        with torch.autocast("cpu", enabled=False):
            quantized, codes, commitment = self.quantize(features)
        return self.decoder(self.from_code(quantized)), codes, commitment

    def decode(self, codes: Tensor) -> Tensor:
        return self.decoder(
            self.from_code(self.quantize.get_output_from_indices(codes.reshape(-1, self.side, self.side)))
        )


class VQVAEWithPrior(Contender):
    def train(self, data: Data, clock: Clock) -> None:
        self.codes = (data.side // 4) ** 2
        self.bits = float(self.codes * 8)
        self.model = VQVAE(data.channels, data.side).to(memory_format=torch.channels_last)
        self._fit_autoencoder(data, clock)
        self.model.eval()
        transformer = TransformerWrapper(
            num_tokens=CODEBOOK + 1,
            max_seq_len=self.codes + 1,
            attn_layers=Decoder(dim=160, depth=5, heads=5, attn_dim_head=32, attn_dropout=0.1, ff_dropout=0.1),
            emb_dropout=0.1,
        )
        self.prior = AutoregressiveWrapper(transformer)
        self._fit_prior(data, clock)
        self.prior.eval()

    def _fit_autoencoder(self, data: Data, clock: Clock) -> None:
        size, started = 64, time.monotonic()
        optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3, weight_decay=0.0, fused=True)
        average = Average(self.model)
        for step, images in enumerate(data.batches(size)):
            share = clock.spent() / AUTOENCODER_SHARE
            if share >= 1:
                break
            images = images.contiguous(memory_format=torch.channels_last)
            with autocast():
                output, _, commitment = self.model(images)
            loss = F.mse_loss(output.float(), images) + commitment.sum()
            optimizer.zero_grad()
            loss.backward()
            for group in optimizer.param_groups:
                group["lr"] = rate(1e-3, step, share)
            optimizer.step()
            average.update()
            self.seen += size
        self.training_seconds = time.monotonic() - started
        average.use()

    def _fit_prior(self, data: Data, clock: Clock) -> None:
        size, started = 64, clock.spent()
        optimizer = torch.optim.AdamW(self.prior.parameters(), lr=1e-3, weight_decay=0.05, fused=True)
        average = Average(self.prior)
        for step, images in enumerate(data.batches(size, self.seen)):
            if clock.spent() >= 1:
                break
            with torch.no_grad(), autocast():
                codes = self.model(images)[1].reshape(size, self.codes)
            begin = torch.full((size, 1), CODEBOOK)
            with autocast():
                loss = self.prior(torch.cat((begin, codes), 1))
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.prior.parameters(), 1.0)
            for group in optimizer.param_groups:
                group["lr"] = rate(1e-3, step, (clock.spent() - started) / (1 - started))
            optimizer.step()
            average.update()
        average.use()

    def sample(self, count: int) -> Tensor:
        return self._sample(count, 1.0)

    def _sample(self, count: int, temperature: float) -> Tensor:
        begin = torch.full((count, 1), CODEBOOK)
        with autocast():
            codes = self.prior.generate(
                begin, self.codes, cache_kv=True, temperature=temperature, filter_logits_fn=lambda logits: logits
            )
        return self.model.decode(codes.clamp_max(CODEBOOK - 1))

    def more(self, folder: Path, drawn: int) -> dict[str, float]:
        save(folder, "temperature_0.7", draw(lambda count: self._sample(count, 0.7), drawn))
        return {}

    def reconstruct(self, images: Tensor) -> tuple[Tensor, Tensor]:
        output, codes, _ = self.model(images)
        return output, codes.flatten(1)

    def levels(self) -> list[tuple[int, int]]:
        return [(CODEBOOK, self.codes)]

    def parameters(self) -> int:
        codebook = self.model.quantize.codebook
        return (
            sum(parameter.numel() for module in (self.model, self.prior) for parameter in module.parameters())
            + codebook.numel()
        )


if __name__ == "__main__":
    main(VQVAEWithPrior())
