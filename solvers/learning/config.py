"""Settings of `python -m solvers.train`."""

from __future__ import annotations

from dataclasses import dataclass

KINDS = ("dcdm", "learned")


@dataclass
class TrainConfig:
    """What to train, and for how long.

    Parameters
    ----------
    kind
        "dcdm" (the published network, on the empty box) or "learned" (what the cycle's coarse levels are made of).
    out
        Folder for weights, `log.jsonl` and `curve.png`.
    start
        Folder of weights to go on from; null starts anew.
    network
        Size of the published network: "from64" or "from128".
    cells
        Along each side of the training problems; for "learned" the most, at random.
    batch, steps
        Right-hand sides of a step; steps.
    learning_rate
        Adam's at the start; it falls to a twentieth along a cosine.
    seed
        Of weights and right-hand sides.
    save_every
        Steps between saved weights.
    threads
        Of torch.
    """

    kind: str
    out: str
    start: str | None = None
    network: str = "from64"
    cells: int = 32
    batch: int = 4
    steps: int = 300
    learning_rate: float = 1e-3
    seed: int = 0
    save_every: int = 50
    threads: int = 1

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind must be one of {list(KINDS)}; got {self.kind!r}.")
        for name, least in (("cells", 8), ("batch", 1), ("steps", 1), ("save_every", 1), ("threads", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}; got {getattr(self, name)}.")
        if not 0 < self.learning_rate < 1:
            raise ValueError(f"learning_rate must lie in (0, 1); got {self.learning_rate}.")
