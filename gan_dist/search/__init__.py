"""Hyperparameter search without Ray: the space, Optuna's study, samplers and pruners, the best run again."""
