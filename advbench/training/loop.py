"""Train a network and its head: one loop, the data on the device, resumable bit for bit."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from advbench.device import Arithmetic, Device, arithmetic_of, computes_bf16, is_out_of_memory
from advbench.errors import BadSetting, Diverged
from advbench.losses import Head
from advbench.networks import Network
from advbench.recipes import AdversarialTraining, Training
from advbench.runs import Epoch
from advbench.runs.artifacts import within
from advbench.training.adversarial import attacked, evaluating, frozen
from advbench.training.augmentation import mirror_crop
from advbench.types import ImageSet
from advbench.victim import Meter, Told

VALIDATION_BATCH = 512
Tick = Callable[[float, float, float], None]  # images done in this epoch, mean loss and accuracy so far or NaN


@dataclass(frozen=True)
class Checkpoint:
    """All that the next epoch depends on: model, optimiser and random state as tensors, and the rows so far."""

    tensors: Mapping[str, Tensor]
    epochs: tuple[Epoch, ...]


class Trainer:
    """The state of one training: `run` goes on from the epoch it stands at.

    arithmetic   what the network really computes in: bf16 where the settings ask for it and `native` says that the
                 device has it, else float32
    """

    def __init__(
        self,
        network: Network,
        head: Head,
        train: ImageSet,
        validation: ImageSet,
        settings: Training,
        *,
        seed: int,
        device: Device,
        adversarial: AdversarialTraining | None = None,
        native: Callable[[Device], bool] = computes_bf16,
    ) -> None:
        self.network = network.to(device).to(memory_format=torch.channels_last)
        self.head = head.to(device)
        self.settings = settings
        self.adversarial = adversarial
        self.device = device
        self.arithmetic: Arithmetic = arithmetic_of(settings.precision, device, native)
        self.images = train.pixels.to(device)
        self.labels = train.labels.to(device)
        self.validation = validation
        self.epochs: tuple[Epoch, ...] = ()
        self.order = torch.Generator().manual_seed(seed)  # of the batches, their augmentation and attack
        self.noise = torch.Generator().manual_seed(seed).get_state()  # torch's own stream: dropout and the like
        self.optimizer = torch.optim.SGD(
            list(self._groups()),
            lr=settings.learning_rate,
            momentum=settings.momentum,
            nesterov=settings.nesterov and settings.momentum > 0,
            foreach=True,  # the loop's bits at half its time on a CPU
        )
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.steps_per_epoch = max(1, (2 * len(train) + settings.batch_size) // (2 * settings.batch_size))
        self.steps = settings.epochs * self.steps_per_epoch
        self.steps = min(self.steps, settings.max_steps or self.steps)
        self.head.prepare(self.steps)

    def _groups(self) -> list[dict[str, Any]]:
        own, decay = self.settings, self.settings.weight_decay
        named = dict(self.network.named_parameters())
        biases = [p for name, p in named.items() if name.endswith("bias")]
        if own.bias_rate == 1 and own.bias_decay:  # one group: the order in which checkpoints hold the parameters
            groups = [{"params": list(named.values()), "weight_decay": decay, "lr_scale": 1.0}]
        else:
            weights = [p for name, p in named.items() if not name.endswith("bias")]
            groups = [
                {"params": weights, "weight_decay": decay, "lr_scale": 1.0},
                {"params": biases, "weight_decay": decay * own.bias_decay, "lr_scale": own.bias_rate},
            ]
        return groups + [
            {"params": g.parameters, "weight_decay": decay * g.decay, "lr_scale": own.head_rate * g.lr_scale}
            for g in self.head.parameter_groups()
        ]

    def learning_rate(self, step: int) -> float:
        """Of step 0, 1, ...: linear warm-up, then half a cosine down to 0 after the last step, or a fall in steps."""
        own, warmup = self.settings, self.settings.warmup * self.steps_per_epoch
        if step < warmup:
            return own.learning_rate * (step + 1) / (warmup + 1)
        if own.decay_every:
            return own.learning_rate * own.decay_factor ** (step // own.decay_every)
        progress = (step - warmup) / max(1.0, self.steps - warmup)
        return own.learning_rate * (1 + math.cos(math.pi * progress)) / 2

    def checkpoint(self) -> Checkpoint:
        """The state after the last whole epoch."""
        tensors = {f"network.{k}": v for k, v in self.network.state_dict().items()}
        tensors |= {f"head.{k}": v for k, v in self.head.state_dict().items()}
        for index, slots in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{k}": v for k, v in slots.items() if isinstance(v, Tensor)}
        tensors |= {"rng.order": self.order.get_state(), "rng.noise": self.noise}
        return Checkpoint({k: v.detach().cpu().clone() for k, v in tensors.items()}, self.epochs)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Stand where `checkpoint` was taken.

        Raises RuntimeError, KeyError, TypeError or ValueError where it is of another model.
        """
        tensors = checkpoint.tensors
        self.network.load_state_dict(within(tensors, "network"))
        self.head.load_state_dict(within(tensors, "head"))
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in within(tensors, "optimizer").items():
            index, _, slot = key.partition(".")
            if value.ndim and value.shape != self.parameters[int(index)].shape:
                raise ValueError(f"optimizer.{key} is of shape {list(value.shape)}")
            state.setdefault(int(index), {})[slot] = value
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})
        self.order.set_state(tensors["rng.order"])
        self.noise = torch.Generator().set_state(tensors["rng.noise"]).get_state()
        self.epochs = checkpoint.epochs

    def run(
        self,
        on_epoch: Callable[[Trainer], None] = lambda trainer: None,
        on_batch: Tick = lambda images, loss, accuracy: None,
    ) -> None:
        """Train up to the last epoch; `on_epoch` is called after each.

        Raises Diverged when the loss is no longer finite, BadSetting when memory runs out.
        """
        while len(self.epochs) * self.steps_per_epoch < self.steps:
            try:
                self.epochs += (self._epoch(on_batch),)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                raise BadSetting(
                    f"a training batch of {self.settings.batch_size} images does not fit into the memory of "
                    f"{self.device}; try --train-batch-size {max(1, self.settings.batch_size // 2)}"
                ) from error
            on_epoch(self)

    def _epoch(self, on_batch: Tick) -> Epoch:
        began = time.perf_counter()
        number, size = len(self.epochs), self.settings.batch_size
        # loss and right ones stay on the device: reading them each step would make a GPU wait
        sums, seen = torch.zeros(2, device=self.device), 0

        def report(done: float) -> None:
            on_batch(done, *(sums.cpu().double() / seen).tolist())

        meter = Meter(self.network, report, 2 + 2 * (self.adversarial.steps if self.adversarial else 0))
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(self.noise)
            order = torch.randperm(len(self.labels), generator=self.order).to(self.device)
            self.network.train()
            self.head.train()
            for i in range(min(self.steps_per_epoch, self.steps - number * self.steps_per_epoch)):
                index = order[i * size : (i + 1) * size]
                with meter.batch(slice(seen, seen + len(index))):
                    loss, right = self._step(*self._batch(index, number * self.steps_per_epoch + i))
                    sums += torch.stack([loss * len(index), right])
                    seen += len(index)
            self.noise = torch.get_rng_state()
        mean_loss, accuracy = (sums.cpu().double() / seen).tolist()
        if not math.isfinite(mean_loss):
            raise Diverged(number + 1, self.settings.learning_rate)
        return Epoch(
            epoch=number + 1,
            loss=mean_loss,
            accuracy=accuracy,
            validation_error=self.validation_error(lambda done: report(len(order) + done)),
            learning_rate=self.learning_rate(min((number + 1) * self.steps_per_epoch, self.steps) - 1),
            seconds=time.perf_counter() - began,
        )

    def _batch(self, index: Tensor, step: int) -> tuple[Tensor, Tensor, float]:
        """Images, augmented and then attacked where that is asked for, labels and learning rate of step 0, 1, ..."""
        images, labels, rate = self.images[index], self.labels[index], self.learning_rate(step)
        if self.settings.augmentation == "mirror-crop":
            images = mirror_crop(images, self.order)
        settings = self.adversarial
        if settings is not None:
            ramp = settings.ramp * self.steps
            share = min(1.0, (step + 1) / max(1.0, ramp))
            with frozen(self.parameters), evaluating(self.network):
                images = attacked(self._logits, images, labels, settings, eps=share * settings.eps, rng=self.order)
        return images, labels, rate

    def _logits(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self._features(images))
        return logits

    def _step(self, images: Tensor, labels: Tensor, rate: float) -> tuple[Tensor, Tensor]:
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["lr_scale"]
        features = self._features(images)
        loss = self.head.loss(features, labels)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if self.settings.max_gradient_norm:
            torch.nn.utils.clip_grad_norm_(self.parameters, self.settings.max_gradient_norm)
        self.optimizer.step()
        with torch.no_grad():
            self.head.after_step(features.detach(), labels)
            right = (self.head(features).argmax(dim=1) == labels).sum()
        return loss.detach(), right

    def _features(self, images: Tensor) -> Tensor:
        """Of the network in the training's arithmetic, given as float32 [b d]."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.arithmetic == "bf16"):
            features: Tensor = self.network(images)
        return features.float()

    @torch.no_grad()
    def validation_error(self, told: Told = lambda done: None) -> float:
        """Share of wrong validation images; network and head are left in evaluation mode.

        In the training's arithmetic: with bf16 an image or two may fall otherwise than in the float32 of attacks and
        evaluation.
        """
        self.network.eval()
        self.head.eval()
        wrong, meter = 0, Meter(self.network, told)
        for part in range(0, len(self.validation), VALIDATION_BATCH):
            batch = self.validation.take(slice(part, part + VALIDATION_BATCH))
            with meter.batch(slice(part, part + len(batch))):
                predictions = self.head(self._features(batch.load_all().to(self.device))).argmax(dim=1).cpu()
            wrong += int((predictions != batch.labels).sum())
        told(len(self.validation))
        return wrong / len(self.validation)
