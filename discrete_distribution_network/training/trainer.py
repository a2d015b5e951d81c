"""`Trainer`: training on one process or several, through accelerate.

Here are its settings, what it builds from them, and what scripts call on it; the steps are in `loop.py`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor

from discrete_distribution_network._renamed import renamed_argument
from discrete_distribution_network.conditioning import CondFn
from discrete_distribution_network.data.datasets import ImageDataset, is_stream
from discrete_distribution_network.data.decoding import Augment
from discrete_distribution_network.data.loader import Loader
from discrete_distribution_network.ddn import DDN
from discrete_distribution_network.errors import InvalidInput, shown
from discrete_distribution_network.evaluation.metrics import Evaluation
from discrete_distribution_network.prior.base import LearnedPrior
from discrete_distribution_network.training.checkpoints import Checkpoints
from discrete_distribution_network.training.config import TrainerConfig
from discrete_distribution_network.training.fitting import hold_out
from discrete_distribution_network.training.folders import require_new
from discrete_distribution_network.training.loop import Loop
from discrete_distribution_network.training.optimisation import Optimisation
from discrete_distribution_network.training.pictures import TrainingPictures, named_pictures
from discrete_distribution_network.training.processes import Precision, Processes, accelerator_for
from discrete_distribution_network.training.progress import Progress
from discrete_distribution_network.training.report import Report
from discrete_distribution_network.training.second_stage import SecondStage
from discrete_distribution_network.training.state import TrainingState
from discrete_distribution_network.viz.pictures import grid, make_folder, save_picture


class Trainer:
    """Trains a `DDN`: `Trainer(ddn, dataset=dataset)()`.

    Start it with `accelerate launch` or `torchrun` to train in several processes: each takes `batch_size` images of
    every batch, gradients are averaged, counts summed, and every process makes the same splits.

    Args:
        ddn: trained in place; or a dictionary, the arguments of a new one.
        dataset: a `Dataset`, a tensor (N, C, H, W) or an iterable, of images or (image, label), see `data/datasets.py`;
            or a dictionary, the arguments of an `ImageDataset`.
        prior: such as `Prior(ddn)`: fitted to the network's codes in the last part of the training, from fresh weights,
            and then `result.prior`. Up to 1,000 of the images (at most a tenth) are held out for it.
        num_train_steps: steps of the optimiser.
        learning_rate: the highest learning rate of AdamW.
        muon_learning_rate: the highest learning rate of Muon for the weights of convolutions and linear layers, but
            for the nodes; None to train them by AdamW too. It rises and falls with `learning_rate`.
        weight_decay: of both.
        batch_size: images per batch, in each process.
        grad_accum_every: batches whose gradients are summed for one step.
        checkpoints_folder: where checkpoints are written; a new or empty folder, unless `resume` or `overwrite`.
        results_folder: where `metrics.jsonl`, pictures and, at the end, `model` are written; likewise.
        save_results_every: steps between two grids of samples and reconstructions.
        checkpoint_every: steps between two checkpoints.
        num_samples: images in a grid.
        adam_kwargs: further arguments of `torch.optim.AdamW`.
        accelerate_kwargs: further arguments of `accelerate.Accelerator`.
        ema_kwargs: of the moving average: `beta` (0.9999, at most (1 + t) / (10 + t) in update t), `update_every` (1)
            and `update_after_step` (0).
        use_ema: keep an exponential moving average of the weights, which is then evaluated, sampled and saved.
        max_grad_norm: gradients are clipped to this norm; None for no clipping.
        apply_grad_penalty_every: steps between two gradient penalties of the discriminator, if there is one.
        test_dataset: held-out images, evaluated now and then and at the end.
        evaluate_every: steps between two evaluations.
        evaluate_images: number of held-out images in an evaluation; None for all.
        max_minutes: wall-clock time after which the training ends, if that comes before `num_train_steps`. Schedules
            then follow the clock, so that a resume is not exact.
        warmup_steps: steps of the linear warm-up of the learning rate.
        decay: "cosine" for a learning rate that decays to zero.
        hold: share of the training at which the decay begins.
        split_every: steps between two calls of split-and-prune.
        split_until: share of the training after which split-and-prune is not called. Like `hold` of the part in which
            the network is trained.
        second_stage: share of the training, its last part, in which the network rests while its decoder and the prior
            learn, if there is either. None is 0.55 with a prior, and 0.2 without.
        augment: function of one image (C, H, W); see `Loader`.
        cond_fn: function from images to the condition of a network with `cond_channels`; see `conditioning.py`. A
            network with `num_classes` gets the labels of the data set.
        max_bad_images: number of undecodable images, in each process, that are replaced by others (left out of an
            evaluation) before an error is raised.
        num_workers: processes that load images; by default none on a CPU, two on a GPU.
        mixed_precision: "no" (float32), "bf16" or "fp16". None is the setting of `accelerate launch
            --mixed_precision`, else float32. "auto" is the launcher's bf16 or fp16, else bf16 where the processor has
            instructions for it. The launcher's gradient accumulation is ignored.
        compile: `torch.compile` the network.
        channels_last: keep weights and images in this memory format.
        seed: of the order of the images and of everything random in training.
        resume: True for the newest whole checkpoint, if there is one; or the folder of a checkpoint.
        overwrite: write into folders that hold files. Only files of the same names are replaced, but older
            checkpoints count among the newest `max_checkpoints`.
        max_checkpoints: number of checkpoints kept, the newest; None for all.
        trackers: names of accelerate's trackers (tensorboard, wandb, trackio), or trackers.
        log_every: steps between two lines of figures.
        timeout: seconds after which a process stops waiting for the others.
        progress: show a progress bar.

    Attributes:
        config: the settings, as a `TrainerConfig`.
        step: steps done.
        seconds: wall-clock time of the steps, including those before a resume.
        splits: nodes pruned.
        result: the model to use: the moving average, or the `ddn`.
        network_progress: progress of the training at the end of the network's part.
        held_out_bits: bits an image of held-out images' codes by the prior, at its best; None before any are measured.
        unwrapped_model: the `ddn`.
        is_main: whether this process writes the files.

    Raises:
        InvalidInput: from the constructor: a setting is out of range, or a folder holds files.
        DDNError: from the call: the loss or the gradient is not finite, and that step changed no weight; or another
            process has ended, or did not answer for `timeout` seconds (with gloo; NCCL ends the process by itself).
        OutputError: from the call: a file cannot be written; the error names it, and older checkpoints stay.
        Interrupted: from the call: SIGTERM or Ctrl-C, after a checkpoint is saved. It is a SystemExit with code
            128 + signal.
    """

    @renamed_argument("make_cond", "cond_fn")
    def __init__(
        self,
        ddn: DDN | dict[str, Any],
        *,
        dataset: Any,
        prior: LearnedPrior | None = None,
        num_train_steps: int = 70_000,
        learning_rate: float = 3e-4,
        muon_learning_rate: float | None = None,
        weight_decay: float = 1e-3,
        batch_size: int = 32,
        grad_accum_every: int = 1,
        checkpoints_folder: str | Path = "./checkpoints",
        results_folder: str | Path = "./results",
        save_results_every: int = 100,
        checkpoint_every: int = 1000,
        num_samples: int = 16,
        adam_kwargs: dict[str, Any] | None = None,
        accelerate_kwargs: dict[str, Any] | None = None,
        ema_kwargs: dict[str, Any] | None = None,
        use_ema: bool = True,
        max_grad_norm: float | None = 0.5,
        apply_grad_penalty_every: int = 4,
        test_dataset: Any = None,
        evaluate_every: int = 1000,
        evaluate_images: int | None = 1000,
        max_minutes: float | None = None,
        warmup_steps: int = 0,
        decay: Literal["none", "cosine"] = "none",
        hold: float = 0.0,
        split_every: int = 1,
        split_until: float = 1.0,
        second_stage: float | None = None,
        augment: Augment | None = None,
        cond_fn: CondFn | None = None,
        max_bad_images: int = 0,
        num_workers: int | None = None,
        mixed_precision: Precision | None = None,
        compile: bool = False,
        channels_last: bool = True,
        seed: int = 0,
        resume: bool | str | Path = False,
        overwrite: bool = False,
        max_checkpoints: int | None = 3,
        trackers: Sequence[Any] = (),
        log_every: int = 20,
        timeout: float = 600.0,
        progress: bool = True,
    ):
        arguments = locals()  # all of the signature, by name
        self.config = TrainerConfig(**{field.name: arguments[field.name] for field in fields(TrainerConfig)})
        self._build(_made_of(DDN, ddn), prior, _made_of(ImageDataset, dataset), test_dataset)
        if resume and (found := self.checkpoints.newest_whole() if resume is True else Path(resume)):
            self.load(found)

    def _build(self, ddn: Any, prior: LearnedPrior | None, dataset: Any, test_dataset: Any) -> None:
        config = self.config
        if not isinstance(ddn, DDN):
            raise InvalidInput(f"expected a DDN, or a dictionary of its arguments, got a {type(ddn).__name__}")
        self.results_folder = Path(config.results_folder)
        self.checkpoints = Checkpoints(config.checkpoints_folder, config.max_checkpoints)
        self.accelerator = accelerator_for(
            config.mixed_precision,
            config.timeout,
            list(config.trackers),
            self.results_folder,
            config.accelerate_kwargs or {},
        )
        self.processes, self.precision = Processes(self.accelerator), self.accelerator.mixed_precision
        if not (config.resume or config.overwrite):
            require_new((self.checkpoints.folder, self.results_folder), self.processes)
        self.report = Report(self.results_folder if self.is_main else None, replace=config.overwrite)
        held_out = None
        if prior is not None:
            require_prior(prior, ddn)
            dataset, held_out = hold_out(dataset, test_dataset)
        self.loader = self._loader(dataset, ddn)
        if self.is_main and (lacking := ddn.not_rebuildable):
            warnings.warn(
                f"config.json cannot hold {', '.join(lacking)}; whoever loads what this training saves has to give the "
                "same to DDN.from_pretrained",
                stacklevel=3,
            )
        self.optimisation = Optimisation(ddn, config, self.processes)
        self.ddn, self.ema, self.optimizer = ddn, self.optimisation.ema, self.optimisation.optimizer
        second = None
        if prior is not None or ddn.decoder is not None:
            second = SecondStage(ddn, self.result, prior, config, self.processes, dataset, held_out)
        self.state = TrainingState(self.optimisation, self.loader, self.checkpoints, second)
        shown = self.loader.dataset if test_dataset is None else test_dataset
        self.pictures = TrainingPictures(self.result, shown, config)
        self.loop = Loop(config, self.state, self.pictures, self.report, test_dataset)

    def _loader(self, dataset: Any, ddn: DDN) -> Loader:
        config, processes = self.config, self.processes
        workers = config.num_workers
        if workers is None:
            workers = 0 if processes.device.type == "cpu" else 1 if is_stream(dataset) else 2
        return Loader(
            dataset,
            ddn,
            config.batch_size,
            augment=config.augment,
            seed=config.seed,
            rank=processes.rank,
            ranks=processes.number,
            workers=workers,
            pin_memory=processes.device.type == "cuda",
            max_bad_images=config.max_bad_images,
        )

    @property
    def step(self) -> int:
        return self.state.progress.step

    @property
    def images(self) -> int:
        return self.state.progress.images

    @property
    def seconds(self) -> float:
        return self.state.progress.seconds

    @property
    def splits(self) -> int:
        return self.state.progress.splits

    @property
    def network_progress(self) -> Progress:
        return self.loop.second.began if self.loop.second is not None and self.loop.resting else self.state.progress

    @property
    def held_out_bits(self) -> float | None:
        return None if self.state.second is None else self.state.second.held_out_bits

    @property
    def result(self) -> DDN:
        return self.optimisation.result

    @property
    def unwrapped_model(self) -> DDN:
        return self.ddn

    @property
    def is_main(self) -> bool:
        return self.processes.is_main

    def __call__(self) -> Evaluation | None:
        """Train to the end.

        Returns:
            The figures on `test_dataset` then, if there is one.
        """
        return self.loop.run()

    @property
    def progress_made(self) -> float:
        """The share of the training that is done, in [0, 1], by steps or, with `max_minutes`, by the clock."""
        return self.loop.progress_made

    def rate(self) -> float:
        """The learning rate of the next step (see `schedule.py`)."""
        return self.loop.rate()

    # for scripts, between the steps or after them

    def sample(self, fname: str | Path) -> Float[Tensor, "batch channels height width"]:
        """Sample `num_samples` images with `result` and write them as one picture, in the main process.

        Args:
            fname: of the picture; a bare name is a file in the results folder.

        Returns:
            The images (num_samples, C, H, W) in [0, 1].
        """
        images = self.pictures.samples().clamp(0, 1)
        if self.is_main:
            path = Path(fname)
            path = self.results_folder / path if len(path.parts) == 1 else path
            make_folder(path.parent)
            save_picture(grid(images), path)
        return images

    def log(
        self, values: Mapping[str, Any] | float | Tensor | None = None, step: int | None = None, **more: Any
    ) -> None:
        """Write figures to `metrics.jsonl` and, during the training, to the trackers.

        `log({"name": 1.0})` and `log(name=1.0)` do the same.

        Args:
            values: by their names; a single number is called "value".
            step: of the training; by default the current one.
        """
        if self.is_main:
            named = values if isinstance(values, Mapping) else {} if values is None else {"value": values}
            self.report.write(self.step if step is None else step, {**named, **more})

    def log_images(self, *images: Any, step: int | None = None, **more: Any) -> None:
        """Write images into `pictures` in the results folder and, during the training, to trackers that accept them.

        Args:
            images: `log_images(images)`, `log_images("name", images)`, `log_images({"name": images})` or
                `log_images(name=images)`; a tensor (C, H, W) or (B, C, H, W) of 1 or 3 channels in [0, 1] or uint8, a
                Pillow image, or a list of these.
            step: of the training; by default the current one.
        """
        if not self.is_main:
            return
        step = self.step if step is None else step
        pictures = named_pictures(*images, **more)
        for name, picture in pictures.items():
            self.pictures.save(picture, name, step)
        self.report.write_pictures(step, pictures)

    # checkpoints

    def save(self, name: str | Path | None = None) -> Path:
        """Write a checkpoint of this step, which is a model folder too.

        Args:
            name: of the folder, in `checkpoints_folder`; it must not exist, and is never deleted. None for one named
                after the step, of which the newest `max_checkpoints` are kept.

        Returns:
            Its folder.

        Raises:
            OutputError: it could not be written; older checkpoints stay.
        """
        return self.state.save(name)

    def load(self, checkpoint: str | Path | None = None) -> None:
        """Continue from a checkpoint.

        Args:
            checkpoint: its folder, or its name in `checkpoints_folder`; None for the newest whole one there.

        Raises:
            ModelFileError: it is not whole, or of another network or optimiser.
        """
        changed = self.state.load(checkpoint)
        self.report.replace = False
        if changed:
            warnings.warn(f"resumed, but not exactly as if never ended: {', '.join(changed)}", stacklevel=2)


def require_prior(prior: object, ddn: DDN) -> None:
    """Raise `InvalidInput` unless it can be fitted to the codes of this network."""
    if not isinstance(prior, LearnedPrior):
        raise InvalidInput(f"expected a prior that is learnt, such as Prior(ddn), or None, got {shown(prior)}")
    prior.require_network(ddn)


def _made_of(kind: Callable[..., Any], given: Any) -> Any:
    """`given`, or `kind` with the arguments of a dictionary."""
    if not isinstance(given, dict):
        return given
    try:
        return kind(**given)
    except TypeError as error:
        name = getattr(kind, "__name__", kind)
        raise InvalidInput(f"expected the arguments of {name} in a dictionary, but {error}") from error
