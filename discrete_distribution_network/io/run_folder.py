"""A run: the folder of one training.

config.json          options; `ddn train --config` repeats the run
metrics.jsonl        metrics, every few steps
checkpoints/         to resume from; each is a model folder too
pictures/            samples and reconstructions during training
model/               the model at the end
evaluation.json      its metrics on the whole test set
samples.png, reconstructions.png, tree.png, loss.png
"""

from pathlib import Path

RUNS = Path("runs")
"""Where new runs are put, and where a command looks for the newest one."""

CONFIG = "config.json"
CHECKPOINTS = "checkpoints"
EVALUATION = "evaluation.json"
