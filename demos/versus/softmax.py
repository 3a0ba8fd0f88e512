"""The exact softmax beside PyTorch's: time and memory of one step, whole and in chunks. Each in its own process.

    python demos/versus/softmax.py
    python demos/versus/softmax.py --full

Cross-entropy of 128 hidden vectors of 128 numbers over V words, forward, and back to the hidden vectors, the weights
(V, 128) and the bias: this project's FullSoftmax whole, and a chunk of the vocabulary at a time, and PyTorch's
cross_entropy(linear(h, W, b)). V = 1,000, 10,000, 100,000, and with --full a million, for which 8 GB must be
free. First all must find the same loss and gradients. The memory is what one step takes at its highest beyond the
weights and their gradient, measured in the first step of a process. Takes half a minute, --full two; needs
`pip install 'minigrad[versus]'`.
"""

# %% What we need
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from _shared.errors import DemoError
from _shared.flags import common_flags, output_folder, run_demo
from _shared.progress import Progress
from _shared.race import Race, peak_bytes
from _shared.report import environment, table, write_json

DIM, BATCH = 128, 128


# %% What all begin with
class Contestant:
    """step() does one; found() -> what it found of loss and gradients; memory() -> bytes of the first step."""

    def __init__(self, vocab: int, chunk: int, seed: int):
        def inputs(words: int):
            rng = np.random.default_rng(seed)
            hidden = rng.standard_normal((BATCH, DIM), np.float32)
            weight = rng.standard_normal((words, DIM), np.float32)
            weight /= np.float32(DIM**0.5)
            return hidden, weight, np.zeros(words, np.float32), rng.integers(words, size=BATCH)

        self.vocab, self.chunk = vocab, chunk
        self.prepare(*inputs(2 * chunk))
        self.step()  # libraries are loaded and kernels compiled before memory is measured
        self.prepare(*inputs(vocab))

    def memory(self) -> int | None:
        rise = peak_bytes(self.step)
        return None if rise is None else max(rise - 4 * self.vocab * (DIM + 1), 0)

    def found(self) -> list:
        loss, hidden, weight, bias = self.step(), *self.gradients()
        return [[loss], hidden, weight[:100], weight.sum(0), bias[:100]]


class MinigradWhole(Contestant):
    name, package = "minigrad, whole", None
    in_chunks = False

    def prepare(self, hidden, weight, bias, targets) -> None:
        import losses
        import minigrad as mg

        chunk = self.chunk if self.in_chunks else None
        self.layer = losses.FullSoftmax(len(weight), DIM, key=mg.Key(0), chunk=chunk)
        self.layer.weight.data, self.layer.bias.data = weight, bias
        self.hidden, self.targets = mg.param(hidden), targets

    def step(self) -> float:
        for tensor in (self.hidden, self.layer.weight, self.layer.bias):
            tensor.grad = None
        loss = self.layer.loss(self.hidden, self.targets)
        loss.backward()
        return loss.item()

    def gradients(self) -> list:
        return [tensor.grad for tensor in (self.hidden, self.layer.weight, self.layer.bias)]


class MinigradInChunks(MinigradWhole):
    name = "minigrad, in chunks"
    in_chunks = True


class Torch(Contestant):
    name, package = "torch", "torch"

    def prepare(self, hidden, weight, bias, targets) -> None:
        import torch

        self.torch, self.targets = torch, torch.from_numpy(targets)
        self.leaves = [torch.from_numpy(array).requires_grad_() for array in (hidden, weight, bias)]

    def step(self) -> float:
        F, (hidden, weight, bias) = self.torch.nn.functional, self.leaves
        for leaf in self.leaves:
            leaf.grad = None
        loss = F.cross_entropy(F.linear(hidden, weight, bias), self.targets)
        loss.backward()
        return loss.item()

    def gradients(self) -> list:
        return [leaf.grad.numpy() for leaf in self.leaves]


CONTESTANTS = (MinigradWhole, MinigradInChunks, Torch)


# %% All of it
def parser():
    p = common_flags(__doc__, name="softmax", corpus=False)
    p.set_defaults(out=Path("out") / "versus-softmax")
    p.add_argument("--full", action="store_true", help="a vocabulary of a million, too")
    p.add_argument("--rounds", type=int, default=9, help="rounds, each contestant once in each (default 9)")
    p.add_argument("--chunk", type=int, default=1024, metavar="N", help="words in a chunk (default 1024)")
    p.add_argument("--threads", type=int, choices=[1, 2], default=1, help="cores, and threads of each (default 1)")
    return p


def main(argv=None) -> None:
    args = parser().parse_args(argv)
    if args.device != "cpu":
        raise DemoError("this race is between CPUs: leave out --device")
    for flag in ("rounds", "chunk"):
        if getattr(args, flag) < 1:
            raise DemoError(f"--{flag} must be positive, got {getattr(args, flag)}")
    out = output_folder(args.out)
    sizes = [1000, 10_000] if args.quick else [1000, 10_000, 100_000] + [1_000_000] * args.full
    rounds = 3 if args.quick else args.rounds
    rows, results, seconds = [], {}, {}
    with Progress("racing", len(sizes) * (rounds + 1) * len(CONTESTANTS), unit="turns") as bar:
        for vocab in sizes:
            with Race(
                CONTESTANTS, {"vocab": vocab, "chunk": args.chunk, "seed": args.seed}, threads=args.threads
            ) as race:
                memory = race.ask("memory")
                race.agree("found", tolerance=1e-3)
                times = race.run("step", rounds=rounds, advance=bar.advance)
                versions, absent = race.versions, race.absent
            seconds[vocab] = dict(times.seconds)
            for name in times.seconds:
                ratio = times.ratio(name, "torch") if "torch" in times.seconds else None
                said = None if name == "torch" or ratio is None else str(ratio)
                megabytes = None if memory[name] is None else f"{memory[name] / 1e6:.4g} MB"
                rows.append([vocab, name, f"{1e3 * times.median(name):.3g} ms", said, megabytes])
                found = {"seconds": times.median(name), "of_torchs": ratio and vars(ratio), "bytes": memory[name]}
                results.setdefault(vocab, {})[name] = found
    print("\n".join(f"{name}: {library}" for name, library in versions.items()))
    headers = ["V", "", "a step", "× torch's", "beyond W and its gradient"]
    table(f"The exact softmax, forward and back, {args.threads} core(s), median of {rounds} rounds", headers, rows)
    print("".join(f"{name}: {reason}\n" for name, reason in absent.items()), end="")
    report = {"environment": environment(), "threads": args.threads, "versions": versions, "absent": absent}
    write_json(out / "results.json", {**report, "chunk": args.chunk, "results": results, "seconds": seconds})
    print(f"in {out}: results.json")


if __name__ == "__main__":
    run_demo(main)
