from __future__ import annotations

import numpy as np
import pytest
import torch
from evaluation_fakes import FakeModel, protocol, request

from mu_vision import seeding
from mu_vision.errors import UsageError
from mu_vision.evaluation.plan import concept_plan, grid_plan
from mu_vision.evaluation.protocol import Protocol, load_protocol
from mu_vision.metrics.rates import unlearning_rates
from mu_vision.resources import names


def test_shipped_protocols():
    assert {"minicanvas", "unlearncanvas"} <= set(names("protocol"))
    mini = load_protocol("minicanvas")
    assert mini.pictures() == 400 and mini.prompt("cat", "neon") == "A cat image in neon style."
    assert mini.cra_scope == "all" and mini.noise == "per_cell"
    paper = load_protocol("unlearncanvas")
    assert (paper.steps, paper.guidance, paper.size) == (100, 9.0, 512)
    assert paper.seeds == (188, 288, 588, 688, 888) and paper.pictures() == 5100
    assert not paper.include_seed_theme and paper.cra_scope == "all"
    assert paper.prompt("Architectures", "Van_Gogh") == "A Architectures image in Van Gogh style."
    assert paper.prompt("Dogs", "Seed_Images") == "A Dogs image in Seed Images style."


def test_style_judge_of_unlearncanvas_has_the_photos_at_38():
    grid = load_protocol("unlearncanvas").grid
    assert len(grid.styles) == 51 and grid.styles.index("Seed_Images") == 38
    assert list(grid.styles) == sorted(grid.styles) and len(grid.objects) == 20
    assert grid.scored().sum() == 50


def test_fid_counts_of_unlearncanvas():
    """5,000 pictures without a style, 4,845 without an object, the photos on both sides."""
    grid, seeds = load_protocol("unlearncanvas").grid, 5
    assert (~grid.target_mask("style", ["Monet"])).sum() * seeds == 5000
    assert (~grid.target_mask("object", ["Dogs"])).sum() * seeds == 4845
    right = np.ones((51, 20, 5), bool)
    rates = unlearning_rates(grid, right, right, "style", ["Monet"])
    assert {name: rate.total for name, rate in rates.items()} == {
        "ua": 100, "ira": 4900, "cra_all": 5000, "cra_retain": 4900,
    }  # fmt: skip


def test_missing_files_are_said_in_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("MU_VISION_DATA", str(tmp_path))
    paper = load_protocol("unlearncanvas")
    with pytest.raises(UsageError, match=r"needs files that are not here.*style50\.pth") as caught:
        paper.check_files()
    said = str(caught.value)
    for part in ("style50_cls.pth", "pt_inception-2015-12-05", "inception_v3_google", "$MU_VISION_DATA",
                 str(tmp_path / "data/unlearncanvas")):  # fmt: skip
        assert part in said
    for file in paper.files():
        file.where.parent.mkdir(parents=True, exist_ok=True)
        file.where.touch()
    paper.check_files()


@pytest.mark.parametrize(
    "change, said",
    [
        ("stepz: 5", r"unknown key 'stepz'.*'steps'"),
        ("steps: many", "'steps' must be a whole number"),
        ("noise: percell", "did you mean 'per_cell'"),
        ("seeds: [1, 1]", "seeds holds a value twice"),
        ("styles: [neom]", "Did you mean 'neon'"),
        ("size: 33", "'size'"),
        ("fid: {features: clip}", "unknown key 'fid.features'"),
    ],
)
def test_faults_in_a_protocol_file(tmp_path, change, said):
    path = tmp_path / "mine.yaml"
    base = "name: mine\ndataset: minicanvas\nseeds: [1]\nsteps: 2\nguidance: 3\n"
    key = change.split(":")[0]
    lines = [line for line in base.splitlines() if not line.startswith(f"{key}:")]
    judges = "judges: {style: a, object: b}"
    path.write_text("\n".join([*lines, judges, change]) + "\n")
    with pytest.raises(UsageError, match=said):
        load_protocol(path)


def test_a_protocol_survives_its_own_dump():
    for name in ("minicanvas", "unlearncanvas"):
        found = load_protocol(name)
        assert Protocol.model_validate(found.model_dump()) == found
        assert Protocol.model_validate_json(found.model_dump_json()) == found
    with pytest.raises(UsageError, match="Did you mean 'minicanvas'"):
        load_protocol("minicanvass")


SHAPE = (4, 2, 2)


def test_latents_are_a_function_of_seed_and_cell():
    plan = grid_plan(protocol())
    rows = list(range(len(plan)))
    latents = plan.latents(rows, SHAPE)
    order = np.random.default_rng(0).permutation(len(plan)).tolist()
    assert torch.equal(plan.latents(order, SHAPE), latents[order])
    assert len({tuple(x.flatten().tolist()) for x in latents}) == len(plan)
    s, o = 3, 4
    row = rows[(s * 10 + o) * 2 + 1]
    assert torch.equal(latents[row], seeding.noise(SHAPE, "latent", 2, s, o))


def test_a_lite_protocol_draws_the_same_pictures():
    full, lite = grid_plan(protocol()), grid_plan(protocol(styles=("neon",), objects=("cat",)))
    assert len(lite) == 2
    for row, (prompt, parts) in enumerate(zip(lite.prompts, lite.latent_parts)):
        twin = full.latent_parts.index(parts)
        assert full.prompts[twin] == prompt
        assert torch.equal(full.latents([twin], SHAPE), lite.latents([row], SHAPE))


def test_published_samplers_noise():
    """`shared` is one latent a seed; `stream` is what a sampler's loop over the cells draws."""
    shared = grid_plan(protocol(noise="shared"))
    latents = shared.latents(range(len(shared)), SHAPE)
    for r, seed in enumerate((1, 2)):
        expected = torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))
        assert all(torch.equal(x, expected) for x in latents[r::2])
    stream = grid_plan(protocol(noise="stream"))
    generator = torch.Generator().manual_seed(2)
    drawn = [torch.randn(SHAPE, generator=generator) for _ in range(80)]
    assert torch.equal(stream.latents(range(1, 160, 2), SHAPE), torch.stack(drawn))
    assert torch.equal(stream.latents([159], SHAPE)[0], drawn[-1])


def test_keys_differ_when_pictures_could():
    base = grid_plan(protocol()).key("a")
    changes = [
        {"steps": 3}, {"guidance": 2.0}, {"seeds": (1, 3)}, {"noise": "shared"}, {"negative": "x"},
        {"jpeg_quality": 75}, {"precision": "bf16"}, {"size": 16}, {"styles": ("neon",)},
    ]  # fmt: skip
    keys = {grid_plan(protocol(**change)).key("a") for change in changes}
    assert len(keys | {base, grid_plan(protocol()).key("b")}) == len(changes) + 2
    for change in ({"batch": 3}, {"cra_scope": "retain"}, {"include_seed_theme": False}):
        assert grid_plan(protocol(**change)).key("a") == base


def test_concept_plan_takes_the_prompts_in_turn():
    words = request("concept", "a red cat", prompts=["a red cat", "red cats"])
    plan = concept_plan(protocol(), [words])
    assert len(plan) == 10 and set(plan.prompts[::2]) == {words.prompts[0]}
    latents = plan.latents(range(10), SHAPE)
    assert len({tuple(x.flatten().tolist()) for x in latents}) == 10


def test_seed_theme_prompt_can_be_what_samplers_used():
    plan = grid_plan(protocol(seed_theme_prompt="A {object} image in Seed Images style."))
    assert "A cat image in Seed Images style." in plan.prompts
    assert "A cat image in photo style." not in plan.prompts


def test_unlearncanvas_grid_and_size_reach_the_sampler():
    from mu_vision.evaluation.answers import _Artist

    artist = _Artist(FakeModel(), protocol(size=16), grid_plan(protocol(size=16)))
    assert artist.shape == (4, 4, 4)
