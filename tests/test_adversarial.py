"""The game's losses against closed forms, its optimisers, its average, and what it leaves alone."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from gans import tiny_gan

from mu_vision.adversarial import Game, GameSettings, critic_loss, path_lengths, r1_penalty
from mu_vision.loop import LoopConfig, train


class Toy(Game):
    """Real pictures are white."""

    def __init__(self, rules=None, architecture="stylegan2"):
        self.rules, self.architecture = rules or GameSettings(batch=4), architecture

    def prepare(self, device):
        self.student = tiny_gan(self.architecture).clone()
        self.start()

    def real(self, count):
        return torch.ones(count, 1, 8, 8) + 0.1 * torch.randn(count, 1, 8, 8)


def test_the_critics_loss_is_binary_cross_entropy():
    real, fake = torch.randn(9), torch.randn(9)
    bce = F.binary_cross_entropy_with_logits
    expected = bce(real, torch.ones(9)) + bce(fake, torch.zeros(9))
    torch.testing.assert_close(critic_loss(real, fake), expected)


def test_r1_of_a_linear_critic_is_the_squared_norm():
    w = torch.randn(3, 4, 4, dtype=torch.float64)
    x = torch.randn(5, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(r1_penalty((x * w).sum((1, 2, 3)), x), w.square().sum())


def test_path_length_of_a_linear_generator_is_the_norm_of_its_transposed_product():
    matrix = torch.randn(12, 5, dtype=torch.float64)
    w = torch.randn(4, 1, 5, dtype=torch.float64, requires_grad=True)
    pictures = (w[:, 0] @ matrix.T).view(4, 3, 2, 2)
    torch.manual_seed(3)
    found = path_lengths(pictures, w)
    torch.manual_seed(3)
    y = torch.randn(pictures.shape).double() / 2  # sqrt(H W) = 2
    expected = (y.view(4, 12) @ matrix).norm(dim=1)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)
    both = torch.cat([w, w], 1)
    torch.manual_seed(3)
    twice = path_lengths(((both[:, 0] + both[:, 1]) / 2 @ matrix.T).view(4, 3, 2, 2), both)
    torch.testing.assert_close(twice, expected / 2, rtol=1e-6, atol=1e-9)


def test_the_average_closes_in_at_its_decay():
    game = Toy(GameSettings(batch=4, average=0.997784))
    game.prepare(torch.device("cpu"))
    with torch.no_grad():
        for p in game.student.generator.parameters():
            p += 1
    gap = [a - p for a, p in zip(game.averaged.parameters(), game.student.generator.parameters())]
    for step in range(50):
        game.after_step(step)
    parts = zip(game.averaged.parameters(), game.student.generator.parameters(), gap)
    for averaged, live, first in parts:
        torch.testing.assert_close(averaged - live, 0.997784**50 * first, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("architecture", ["stylegan2", "dcgan"])
def test_the_game_makes_pictures_white(architecture):
    rules = GameSettings(batch=8, r1=1.0, r1_every=4, path_every=4, average=0.9)
    game = Toy(rules, architecture)
    train(game, LoopConfig(steps=60, lr=5e-3, log_every=1))
    z = game.student.latents(32, "test")
    before = tiny_gan(architecture).pictures(z).mean()
    after = game.finished_model().pictures(z).mean()
    assert after > before + 0.4
    assert not any(
        p.requires_grad or p.grad is not None for p in game.student.named_parameters().values()
    )


def test_lazy_steps_are_weighted_by_their_interval(monkeypatch):
    seen: list[tuple[int, str, float]] = []
    apply = Game._apply

    def noted(self, run, step, loss, part):
        seen.append((step, part, float(loss.detach())))
        apply(self, run, step, loss, part)

    monkeypatch.setattr(Game, "_apply", noted)
    game = Toy(GameSettings(batch=4, r1=2.0, r1_every=3, path=1.0, path_every=2))
    train(game, LoopConfig(steps=6, lr=0.0))
    counts = [sum((s, p) == (step, part) for s, p, _ in seen) for step in range(6)
              for part in ("discriminator", "generator")]  # fmt: skip
    assert counts == [2, 2, 1, 1, 1, 2, 2, 1, 1, 2, 1, 1]
    halved, whole = [], []
    for rules, kept in ((game.rules.model_copy(update={"r1": 1.0}), halved), (game.rules, whole)):
        seen.clear()
        train(Toy(rules), LoopConfig(steps=1, lr=0.0))
        kept += [loss for _, part, loss in seen if part == "discriminator"]
    assert whole[1] == pytest.approx(2 * halved[1]) and whole[0] == pytest.approx(halved[0])


def test_the_optimisers_account_for_lazy_steps():
    game = Toy(GameSettings(r1_every=16, path_every=4))
    game.prepare(torch.device("cpu"))
    made = game.optimizers(LoopConfig(steps=1, lr=2e-3))
    (g,), (d,) = (made[part].param_groups for part in ("generator", "discriminator"))
    assert g["lr_scale"] == pytest.approx(4 / 5) and d["lr_scale"] == pytest.approx(16 / 17)
    assert g["betas"] == pytest.approx((0, 0.99**0.8)) and d["betas"][0] == 0
    game.rules = GameSettings(r1=0, path=0)
    made = game.optimizers(LoopConfig(steps=1, lr=2e-3))
    assert made["generator"].param_groups[0]["lr_scale"] == 1


def test_neither_player_leaves_a_gradient_in_the_other(monkeypatch):
    def looked(self, run, step, loss, part):
        run.backward(loss, step)
        other = "generator" if part == "discriminator" else "discriminator"
        assert all(p.grad is None for p in getattr(self.student, other).parameters())
        assert any(p.grad is not None for p in getattr(self.student, part).parameters())
        run.apply(run.optimizers[part], getattr(self.student, part).parameters())

    monkeypatch.setattr(Game, "_apply", looked)
    train(Toy(GameSettings(batch=4, r1_every=1, path_every=1)), LoopConfig(steps=2, lr=1e-3))
