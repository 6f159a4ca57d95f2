"""UniForm: one diffusion transformer for audible video (arXiv:2502.03897)."""

__version__ = "0.4.0"
