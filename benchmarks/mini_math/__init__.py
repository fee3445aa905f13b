"""RL on the tiny model in plain PyTorch, with the controller and the rules of the verl trainers: curves in minutes.

``python -m benchmarks.mini_math --methods random,prepo --seeds 0,1 --out DIR``
"""
