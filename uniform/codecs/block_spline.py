"""Matrices between a line of pixels and the means of its blocks: smooth pictures with exact block means.

Applied to rows and to columns they do the same for a picture, because both are linear and act on different axes.
"""

import functools

import numpy as np
from numpy.typing import NDArray


@functools.lru_cache(maxsize=64)
def block_means(size: int, block: int) -> NDArray[np.float64]:
    """Matrix (blocks, size) that averages each block of `block` neighbours; the last block may be shorter."""
    blocks = -(-size // block)
    member = np.arange(size) // block == np.arange(blocks)[:, None]
    return member / member.sum(axis=1, keepdims=True)


@functools.lru_cache(maxsize=64)
def smooth_line(size: int, block: int) -> NDArray[np.float64]:
    """Matrix (size, blocks): block means to the line with these means and the least squared slope.

    The line is a quadratic spline. `block_means(size, block) @ smooth_line(size, block)` is the identity.
    """
    means = block_means(size, block)
    blocks = len(means)
    slope = np.diff(np.eye(size), axis=0)
    # Least squares under the constraint of the means, by Lagrange multipliers.
    system = np.block([[slope.T @ slope, means.T], [means, np.zeros((blocks, blocks))]])
    wanted = np.vstack([np.zeros((size, blocks)), np.eye(blocks)])
    solution: NDArray[np.float64] = np.linalg.solve(system, wanted)
    return solution[:size]
