"""Random programs, for tests of whatever runs them."""

import numpy as np

from spikewire.runtime.program import (
    Add,
    Affine,
    Convolution,
    Flatten,
    Neuron,
    Pool,
    Program,
    Repeat,
    Step,
    Value,
    Vote,
    Weight,
)


def normal(rng, *shape, density=1.0):
    kept = rng.random(shape) < density
    return np.where(kept, rng.normal(size=shape), 0).astype(np.float32)


def pair(rng, low, high):
    return int(rng.integers(low, high + 1)), int(rng.integers(low, high + 1))


def convolution(rng, x, density=0.4):
    groups = int(rng.choice([g for g in (1, 2, 3) if x.shape[0] % g == 0]))
    kernel = [int(rng.integers(1, min(size, 3) + 1)) for size in x.shape[1:]]
    weight = normal(
        rng, groups * rng.integers(1, 5), x.shape[0] // groups, *kernel, density=density
    )
    bias = normal(rng, len(weight)) / 4
    fits = [
        d for d in (1, 2) if all(d * (k - 1) < s for k, s in zip(kernel, x.shape[1:], strict=True))
    ]
    dilation = (int(rng.choice(fits)),) * 2
    return Convolution(Weight.of(weight), bias, pair(rng, 1, 2), pair(rng, 0, 2), dilation, groups)


def neuron(rng, x):
    charge = str(rng.choice(["integrate", "divide", "multiply", "leak"]))
    constant = (
        float(rng.choice([2.0, 4 / 3])) if charge == "divide" else float(rng.choice([0.5, 0.7]))
    )
    reset = [0.0, None, -0.25][int(rng.integers(3))]
    beta = np.abs(normal(rng, x.shape[0])) if rng.random() < 0.2 else None
    return Neuron(charge, constant, float(rng.choice([0.25, 1.0])), reset, beta, 0.9)


def pool(rng, x):
    kernel = tuple(int(rng.integers(1, min(size, 3) + 1)) for size in x.shape[1:])
    if rng.random() < 0.5:
        return Pool("average", kernel, pair(rng, 1, 2))
    return Pool("max", kernel, pair(rng, 1, 2), tuple(int(rng.integers(0, k)) for k in kernel))


def program(rng, T=None, value=None):
    """A convolutional network with shortcuts, its flat end, and whatever else comes to mind."""
    steps, values = [], [value or drawn_value(rng)]

    def add(operation, *sources):
        sources = sources or (len(steps),)
        values.append(operation.value(*(values[source] for source in sources)))
        steps.append(Step(f"layer{len(steps)}", operation, sources))

    if not values[0].sequence and rng.random() < 0.2:
        add(Repeat())
        add(pool(rng, values[-1]))
    for _ in range(rng.integers(0, 4)):
        start = len(steps)
        add(convolution(rng, values[-1]))
        if rng.random() < 0.3:
            add(Affine(normal(rng, values[-1].shape[0]), normal(rng, values[-1].shape[0])))
        if values[start].shape == values[-1].shape and rng.random() < 0.7:
            add(Add(), len(steps), start)
        if not values[-1].sequence and rng.random() < 0.9:
            add(Repeat())
        if values[-1].sequence and rng.random() < 0.8:
            add(neuron(rng, values[-1]))
        if rng.random() < 0.5:
            add(pool(rng, values[-1]))
    if rng.random() < 0.7 or not steps:
        add(Flatten())
        for _ in range(rng.integers(0, 3)):
            start, size = len(steps), values[-1].shape[0]
            if values[-1].sequence and rng.random() < 0.2:
                add(neuron(rng, values[-1]))
            outputs = size if size < 40 and rng.random() < 0.4 else rng.integers(1, 40)
            weight = normal(rng, outputs, size, 1, 1, density=0.3)
            add(Convolution(Weight.of(weight), normal(rng, len(weight)) / 4))
            if values[-1].sequence:
                add(neuron(rng, values[-1]))
            if outputs == size and rng.random() < 0.7:
                add(Add(), len(steps), start)
        features = values[-1].shape[0]
        add(Vote(int(rng.choice([n for n in range(1, 6) if features % n == 0]))))
    return Program(T or int(rng.integers(1, 20)), values[0], steps)


def drawn_value(rng):
    size = (int(rng.choice([1, 2, 3, 5, 8, 16, 17, 33, 50])) for _ in range(2))
    return Value((int(rng.integers(1, 5)), *size), bool(rng.random() < 0.5))


def inputs(rng, program, batch):
    """Numbers, or now and then nothing but zeros and ones."""
    lead = (program.T, batch) if program.input.sequence else (1, batch)
    x = normal(rng, *lead, *program.input.shape, density=0.7)
    return (x > 0.3).astype(np.float32) if rng.random() < 0.4 else x
