"""Evaluation: reconstruction error, usage of nodes, Fréchet distances, a classifier, nearest neighbours."""

from discrete_distribution_network.evaluation.classifier import Classifier, accuracy, train_classifier
from discrete_distribution_network.evaluation.frechet import (
    FrechetFigures,
    frechet_distance,
    frechet_figures,
    inception,
)
from discrete_distribution_network.evaluation.metrics import Evaluation, evaluate, psnr, usage
from discrete_distribution_network.evaluation.neighbours import clusters, neighbours

__all__ = [
    "Classifier",
    "Evaluation",
    "FrechetFigures",
    "accuracy",
    "clusters",
    "evaluate",
    "frechet_distance",
    "frechet_figures",
    "inception",
    "neighbours",
    "psnr",
    "train_classifier",
    "usage",
]
