"""The engine beside its peers: a chain of small operations, and a small network. One core, each in its own process.

    python demos/versus/engine.py

The chain: y ← tanh(w y + b), y ← 1 − y y, two hundred times over: 1,000 elementwise operations on n = 10 (or 100)
numbers, then a sum, and back to all three arguments. So few numbers are soon computed: what is measured is what an
engine adds to that. The network: 784 → 256 → 256 → 10 with ReLU and cross-entropy, one step of SGD on 64 images; most
of it are matrix products, for which all use libraries of the same kind.

First all must find the same gradients, and the same losses after 20 steps. Rivals: PyTorch; and JAX compiled by
`jit` (which sees the chain as one operation), Autograd and MyGrad when they are installed. Takes about a minute;
needs `pip install 'minigrad[versus]'`.
"""

# %% What we need
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from _shared.errors import DemoError
from _shared.flags import common_flags, output_folder, run_demo
from _shared.progress import Progress
from _shared.race import Race
from _shared.report import environment, table, write_json

REPEATS, OPERATIONS = 200, 1000  # of five operations each
SIZES = (10, 100)
WIDTHS = (784, 256, 256, 10)
BATCH, BATCHES, LR = 64, 8, 0.05


# %% What all begin with
class Contestant:
    """chain(n, times) -> the three gradients; steps(number) -> the loss of the last step. Float32 throughout."""

    def __init__(self, seed: int):
        rng = np.random.default_rng(seed)
        self.chains = {n: [rng.uniform(-1, 1, n).astype(np.float32) for _ in range(3)] for n in SIZES}  # y, w, b
        self.images = rng.standard_normal((BATCHES, BATCH, WIDTHS[0]), np.float32)
        self.labels = rng.integers(WIDTHS[-1], size=(BATCHES, BATCH))
        shapes = pairwise(WIDTHS)
        self.weights = [rng.standard_normal((m, n), np.float32) / np.float32(m**0.5) for m, n in shapes]
        self.biases = [np.zeros(n, np.float32) for n in WIDTHS[1:]]
        self.prepare()

    def losses(self) -> list:
        return [self.steps(1) for _ in range(20)]


# %% minigrad
class Minigrad(Contestant):
    name, package = "minigrad", None

    def prepare(self) -> None:
        import minigrad as mg

        class Network(mg.nn.Module):
            def __init__(self):
                self.first, self.second, self.third = (mg.nn.Linear(m, n, key=mg.Key(m)) for m, n in pairwise(WIDTHS))

            def __call__(self, x):
                return self.third(mg.relu(self.second(mg.relu(self.first(x)))))

        self.mg = mg
        self.leaves = {n: [mg.param(array) for array in chain] for n, chain in self.chains.items()}
        self.network, self.criterion = Network(), mg.nn.CrossEntropyLoss()
        state = {}
        for name, weight, bias in zip(("first", "second", "third"), self.weights, self.biases, strict=True):
            state |= {f"{name}.weight": weight.T, f"{name}.bias": bias}
        self.network.load_state_dict(state)
        self.optimiser = mg.optim.SGD(self.network.parameters(), lr=LR)

    def chain(self, n: int, times: int = 1) -> list:
        leaves, tanh = self.leaves[n], self.mg.tanh
        for _ in range(times):
            for leaf in leaves:
                leaf.grad = None
            y, w, b = leaves
            for _ in range(REPEATS):
                y = tanh(y * w + b)
                y = 1.0 - y * y
            y.sum().backward()
        return [leaf.grad for leaf in leaves]

    def steps(self, number: int) -> float:
        for step in range(number):
            loss = self.criterion(self.network(self.images[step % BATCHES]), self.labels[step % BATCHES])
            self.optimiser.zero_grad()
            loss.backward()
            self.optimiser.step()
        return loss.item()


# %% Its rivals, each as its users write it
class Torch(Contestant):
    name, package = "torch", "torch"

    def prepare(self) -> None:
        import torch
        from torch import nn

        self.torch = torch
        self.leaves = {n: [torch.tensor(a, requires_grad=True) for a in chain] for n, chain in self.chains.items()}
        linears = [nn.Linear(m, n) for m, n in pairwise(WIDTHS)]
        with torch.no_grad():
            for linear, weight, bias in zip(linears, self.weights, self.biases, strict=True):
                linear.weight.copy_(torch.from_numpy(weight.T))
                linear.bias.copy_(torch.from_numpy(bias))
        self.network = nn.Sequential(linears[0], nn.ReLU(), linears[1], nn.ReLU(), linears[2])
        self.criterion = nn.CrossEntropyLoss()
        self.optimiser = torch.optim.SGD(self.network.parameters(), lr=LR)
        self.inputs, self.targets = torch.from_numpy(self.images), torch.from_numpy(self.labels)

    def chain(self, n: int, times: int = 1) -> list:
        leaves, tanh = self.leaves[n], self.torch.tanh
        for _ in range(times):
            for leaf in leaves:
                leaf.grad = None
            y, w, b = leaves
            for _ in range(REPEATS):
                y = tanh(y * w + b)
                y = 1.0 - y * y
            y.sum().backward()
        return [leaf.grad.numpy() for leaf in leaves]

    def steps(self, number: int) -> float:
        for step in range(number):
            loss = self.criterion(self.network(self.inputs[step % BATCHES]), self.targets[step % BATCHES])
            self.optimiser.zero_grad()
            loss.backward()
            self.optimiser.step()
        return loss.item()


class Jax(Contestant):
    name, package = "jax.jit", "jax"

    def prepare(self) -> None:
        import jax
        import jax.numpy as jnp

        def chain(y, w, b):
            for _ in range(REPEATS):
                y = jnp.tanh(y * w + b)
                y = 1.0 - y * y
            return y.sum()

        def loss(parameters, x, targets):
            for weight, bias in parameters[:-1]:
                x = jax.nn.relu(x @ weight + bias)
            weight, bias = parameters[-1]
            log_probabilities = jax.nn.log_softmax(x @ weight + bias)
            return -jnp.take_along_axis(log_probabilities, targets[:, None], axis=1).mean()

        def step(parameters, x, targets):
            value, gradients = jax.value_and_grad(loss)(parameters, x, targets)
            return jax.tree.map(lambda p, g: p - LR * g, parameters, gradients), value

        self.gradients, self.step = jax.jit(jax.grad(chain, argnums=(0, 1, 2))), jax.jit(step)
        self.leaves = {n: [jnp.array(array) for array in chain] for n, chain in self.chains.items()}
        self.parameters = [(jnp.array(w), jnp.array(b)) for w, b in zip(self.weights, self.biases, strict=True)]
        self.inputs, self.targets = [list(map(jnp.array, arrays)) for arrays in (self.images, self.labels)]

    def chain(self, n: int, times: int = 1) -> list:
        for _ in range(times):
            gradients = [gradient.block_until_ready() for gradient in self.gradients(*self.leaves[n])]
        return list(map(np.asarray, gradients))

    def steps(self, number: int) -> float:
        for step in range(number):
            batch = self.inputs[step % BATCHES], self.targets[step % BATCHES]
            self.parameters, loss = self.step(self.parameters, *batch)
        return float(loss)


class Autograd(Contestant):
    name, package = "autograd", "autograd"

    def prepare(self) -> None:
        import autograd
        import autograd.numpy as anp

        def chain(y, w, b):
            for _ in range(REPEATS):
                y = anp.tanh(y * w + b)
                y = 1.0 - y * y
            return anp.sum(y)

        def loss(parameters, x, targets):
            for weight, bias in parameters[:-1]:
                x = anp.maximum(anp.dot(x, weight) + bias, 0.0)
            scores = anp.dot(x, parameters[-1][0]) + parameters[-1][1]
            scores = scores - anp.max(scores, axis=1, keepdims=True)
            normaliser = anp.log(anp.sum(anp.exp(scores), axis=1))
            return anp.mean(normaliser - scores[np.arange(len(targets)), targets])

        self.gradients, self.value_and_gradient = autograd.grad(chain, (0, 1, 2)), autograd.value_and_grad(loss)
        self.parameters = [[w.copy(), b.copy()] for w, b in zip(self.weights, self.biases, strict=True)]

    def chain(self, n: int, times: int = 1) -> list:
        for _ in range(times):
            gradients = self.gradients(*self.chains[n])
        return list(gradients)

    def steps(self, number: int) -> float:
        for step in range(number):
            batch = self.images[step % BATCHES], self.labels[step % BATCHES]
            loss, gradients = self.value_and_gradient(self.parameters, *batch)
            for arrays, slopes in zip(self.parameters, gradients, strict=True):
                for array, slope in zip(arrays, slopes, strict=True):
                    array -= LR * slope
        return float(loss)


class Mygrad(Contestant):
    name, package = "mygrad", "mygrad"

    def prepare(self) -> None:
        import mygrad
        from mygrad.nnet.activations import relu
        from mygrad.nnet.losses import softmax_crossentropy

        mygrad.turn_memory_guarding_off()  # its faster setting
        self.mygrad, self.relu, self.criterion = mygrad, relu, softmax_crossentropy
        self.parameters = [mygrad.tensor(a.copy()) for a in (*self.weights, *self.biases)]

    def chain(self, n: int, times: int = 1) -> list:
        tanh = self.mygrad.tanh
        for _ in range(times):
            leaves = [self.mygrad.tensor(array) for array in self.chains[n]]
            y, w, b = leaves
            for _ in range(REPEATS):
                y = tanh(y * w + b)
                y = 1.0 - y * y
            y.sum().backward()
        return [leaf.grad for leaf in leaves]

    def steps(self, number: int) -> float:
        w1, w2, w3, b1, b2, b3 = self.parameters
        for step in range(number):
            hidden = self.relu(self.relu(self.images[step % BATCHES] @ w1 + b1) @ w2 + b2)
            loss = self.criterion(hidden @ w3 + b3, self.labels[step % BATCHES])
            loss.backward()
            for parameter in self.parameters:
                parameter.data[...] -= np.float32(LR) * parameter.grad
                parameter.null_grad()
        return loss.item()


CONTESTANTS = (Minigrad, Torch, Jax, Autograd, Mygrad)


# %% All of it
def parser():
    p = common_flags(__doc__, name="engine", corpus=False)
    p.set_defaults(out=Path("out") / "versus-engine")
    p.add_argument("--rounds", type=int, default=11, help="rounds, each contestant once in each (default 11)")
    p.add_argument("--threads", type=int, choices=[1, 2], default=1, help="cores, and threads of each (default 1)")
    return p


def main(argv=None) -> None:
    args = parser().parse_args(argv)
    if args.device != "cpu":
        raise DemoError("this race is between CPUs: leave out --device")
    if args.rounds < 1:
        raise DemoError(f"--rounds must be positive, got {args.rounds}")
    out = output_folder(args.out)
    rounds, times, number = (3, 2, 10) if args.quick else (args.rounds, 20, 100)
    contestants = CONTESTANTS[:2] if args.quick else CONTESTANTS  # JAX takes seconds to compile the chain

    with Race(contestants, {"seed": args.seed}, threads=args.threads) as race:
        for n in SIZES:
            race.agree("chain", tolerance=1e-3, n=n)
        race.agree("losses", tolerance=2e-3)
        turns = (len(SIZES) + 1) * (rounds + 2) * len(race.names)
        with Progress("racing", turns, unit="turns") as bar:
            run = {"rounds": rounds, "warm_up": 2, "advance": bar.advance}
            results = {f"chain, n = {n}": race.run("chain", n=n, times=times, **run) for n in SIZES}
            results["network"] = race.run("steps", number=number, **run)
        versions, absent = race.versions, race.absent

    units = {label: times * OPERATIONS if label.startswith("chain") else number for label in results}
    rows, summary = [], {}
    for contestant in contestants:
        row = [contestant.name]
        for label, outcome in results.items():
            if contestant.name not in outcome.seconds:
                row += [None, None]
                continue
            each = outcome.median(contestant.name) / units[label]
            ratio = outcome.ratio(contestant.name, "minigrad")
            row += [f"{1e6 * each:.3g} µs", None if contestant is Minigrad else str(ratio)]
            summary.setdefault(contestant.name, {})[label] = {"seconds": each, "of_minigrads": vars(ratio)}
        if contestant.name in summary:
            rows.append(row)
    print("\n".join(f"{name}: {library}" for name, library in versions.items()))
    headers = ["", "chain of 10, an operation", "× minigrad's", "chain of 100", "× minigrad's", "network, a step"]
    table(f"Forward and back, {args.threads} core(s), median of the rounds", [*headers, "× minigrad's"], rows)
    confidence = next(iter(results.values())).ratio("minigrad", "minigrad").confidence
    print(f"× : time over minigrad's in the same round, median of {rounds} ({confidence:.0%} interval of the median)")
    print("".join(f"{name}: {reason}\n" for name, reason in absent.items()), end="")
    report = {"environment": environment(), "threads": args.threads, "versions": versions, "absent": absent}
    seconds = {label: dict(outcome.seconds) for label, outcome in results.items()}
    write_json(out / "results.json", {**report, "results": summary, "units": units, "seconds": seconds})
    print(f"in {out}: results.json")


if __name__ == "__main__":
    run_demo(main)
