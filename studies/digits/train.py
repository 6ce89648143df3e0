"""A training loop of one's own: a small network reads handwritten digits, the 1,797 that come with scikit-learn."""

from pathlib import Path

import pydantic
import torch
from sklearn.datasets import load_digits
from torch.nn import functional as F


class Config(pydantic.BaseModel):
    """What `config.yaml` may hold."""

    model_config = pydantic.ConfigDict(extra="forbid")
    seed: int
    hidden: int = pydantic.Field(ge=1)
    dropout: float = pydantic.Field(ge=0, lt=1)
    lr: float = pydantic.Field(gt=0)
    batch_size: int = pydantic.Field(ge=1)


class Run:
    """Trains for `rungs[-1]` epochs and yields the share of test digits that it misreads."""

    Config = Config

    def __init__(self, config: Config, rungs: tuple[int, ...], device: str) -> None:
        torch.manual_seed(config.seed)
        images, labels = load_digits(return_X_y=True)
        self.x, self.y = torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels)
        self.x, self.y = self.x.to(device), self.y.to(device)
        layers = (torch.nn.Linear(64, config.hidden), torch.nn.ReLU(), torch.nn.Dropout(config.dropout))
        self.model = torch.nn.Sequential(*layers, torch.nn.Linear(config.hidden, 10)).to(device)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=config.lr)
        self.config, self.rungs, self.epoch, self.stopped = config, rungs, 0, False

    def __iter__(self):
        while self.epoch < self.rungs[-1] and not self.stopped:
            self.model.train()
            for rows in torch.randperm(1_297).split(self.config.batch_size):
                self.optimizer.zero_grad()
                F.cross_entropy(self.model(self.x[rows]), self.y[rows]).backward()
                self.optimizer.step()
            self.epoch += 1
            if self.epoch in self.rungs:
                yield self.epoch, self.errors()

    def errors(self) -> dict[str, float]:
        self.model.eval()
        with torch.no_grad():
            logits = self.model(self.x[1_297:])
        wrong = logits.argmax(1) != self.y[1_297:]
        return {
            "error rate": wrong.float().mean().item(),
            "loss": F.cross_entropy(logits, self.y[1_297:]).item(),
        }

    def save(self, folder: Path) -> None:
        state = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        torch.save({**state, "epoch": self.epoch, "random": torch.get_rng_state()}, folder / "state.pt")

    def restore(self, folder: Path) -> None:
        state = torch.load(folder / "state.pt")
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.epoch = state["epoch"]
        torch.set_rng_state(state["random"])

    def stop(self) -> None:
        self.stopped = True
