"""Matrices between a line of pixels and the DCT coefficients of its blocks: smooth lines that keep them exactly.

Applied to rows and to columns they do the same for an image, because both are linear and act on different axes.
"""

import functools

import numpy as np
from numpy.typing import NDArray


@functools.lru_cache(maxsize=64)
def block_means(size: int, block: int) -> NDArray[np.float64]:
    """Matrix (blocks, size) that averages each block of `block` neighbours; the last block may be shorter."""
    blocks = -(-size // block)
    member = np.arange(size) // block == np.arange(blocks)[:, None]
    means: NDArray[np.float64] = member / member.sum(axis=1, keepdims=True)
    return means


@functools.lru_cache(maxsize=64)
def block_amplitudes(size: int, block: int, orders: int) -> NDArray[np.float64]:
    """Matrix (orders x blocks, size): the means of all blocks, then their amplitudes of the next orders.

    `block` divides `size` unless only means are asked for.
    """
    functions = dct_functions(block, orders)[1:] / block
    higher = [np.kron(np.eye(size // block), function[None]) for function in functions]
    return np.concatenate([block_means(size, block), *higher])


@functools.lru_cache(maxsize=64)
def smooth_line(size: int, block: int, orders: int = 1) -> NDArray[np.float64]:
    """Matrix (size, orders x blocks): block amplitudes to the line that has them and the least squared slope.

    For means alone the line is a quadratic spline. `block_amplitudes(...) @ smooth_line(...)` is the identity.
    """
    wanted = block_amplitudes(size, block, orders)
    count = len(wanted)
    slope = np.diff(np.eye(size), axis=0)
    # Least squares under the constraint of the amplitudes, by Lagrange multipliers.
    system = np.block([[slope.T @ slope, wanted.T], [wanted, np.zeros((count, count))]])
    solution: NDArray[np.float64] = np.linalg.solve(system, np.vstack([np.zeros((size, count)), np.eye(count)]))
    return solution[:size]


def dct_functions(size: int, orders: int) -> NDArray[np.float64]:
    """The first DCT-II functions with mean square 1, (orders, size); 0 where there are fewer than `orders`."""
    order, place = np.arange(orders)[:, None], np.arange(size)[None]
    functions: NDArray[np.float64] = np.sqrt(2.0) * np.cos(np.pi * (place + 0.5) * order / size)
    functions[0] = 1.0
    functions[size:] = 0.0
    return functions
