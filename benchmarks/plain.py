"""GANomaly as a user would write it: what the benchmarks compare with."""

import pytorch_lightning as pl
import torch
from torch import nn
from torch.nn import functional as F

MELS, LENGTH = 128, 5


def perceptron(inputs, outputs, *, norm):
    layers, width = [], 128
    for i in (inputs, width, width):
        layers += [nn.Linear(i, width), nn.BatchNorm1d(width, 1e-3, 0.01), nn.ReLU()]
    layers.append(nn.Linear(width, outputs))
    return nn.Sequential(
        *layers, *([nn.BatchNorm1d(outputs, 1e-3, 0.01), nn.ReLU()] if norm else [])
    )


class Plain(nn.Module):
    """The nets, and one step in the published order."""

    def __init__(self):
        super().__init__()
        self.encoder = perceptron(640, 8, norm=True)
        self.decoder = perceptron(8, 640, norm=False)
        self.reencoder = perceptron(640, 8, norm=True)
        self.d = perceptron(640, 1, norm=False)
        generator = [*self.encoder.parameters(), *self.decoder.parameters()]
        self.adam_g = torch.optim.Adam(
            [*generator, *self.reencoder.parameters()], 2e-4, (0.5, 0.999)
        )
        self.adam_d = torch.optim.Adam(self.d.parameters(), 2e-4, (0.5, 0.999))
        self.register_buffer("real", torch.ones(1, 1))
        self.register_buffer("fake", torch.zeros(1, 1))

    def losses(self, x):
        z = self.encoder(x)
        fake = self.decoder(z)
        z_fake = self.reencoder(fake)
        real, unreal = self.real.expand(len(x), 1), self.fake.expand(len(x), 1)
        bce = F.binary_cross_entropy_with_logits
        on_real, on_fake = self.d(x), self.d(fake.detach())
        self.d(x)  # the repository looks at x's features again inside the generator's loss
        loss_g = bce(self.d(fake), real) + 50 * F.l1_loss(fake, x) + F.mse_loss(z_fake, z)
        return loss_g, (bce(on_real, real) + bce(on_fake, unreal)) / 2

    def step(self, x):
        loss_g, loss_d = self.losses(x)
        self.adam_g.zero_grad()
        loss_g.backward(retain_graph=True)
        self.adam_g.step()
        self.adam_d.zero_grad()
        loss_d.backward()
        self.adam_d.step()
        if loss_d.item() < 1e-5:
            self.d.apply(
                lambda m: m.reset_parameters() if hasattr(m, "reset_parameters") else None
            )


class Module(pl.LightningModule):
    """The same as an ordinary LightningModule."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.nets = Plain()

    def training_step(self, batch, _):
        adam_g, adam_d = self.optimizers()
        loss_g, loss_d = self.nets.losses(batch[0])
        adam_g.zero_grad()
        self.manual_backward(loss_g, retain_graph=True)
        adam_g.step()
        adam_d.zero_grad()
        self.manual_backward(loss_d)
        adam_d.step()
        self.log_dict({"train/loss_g": loss_g, "train/loss_d": loss_d}, prog_bar=False)

    def configure_optimizers(self):
        return [self.nets.adam_g, self.nets.adam_d]
