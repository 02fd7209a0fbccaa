"""Hyperparameter search without Ray: the space, Optuna's study, samplers and pruners."""
