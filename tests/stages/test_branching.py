"""`expo rollout --num-step-candidates` on random weights in SD 1.5's layout."""

import shutil
from collections import Counter
from collections.abc import Sequence

import pytest
import torch
from diffusers import StableDiffusionPipeline

from expo_cli.contracts.ids import candidate_seed, continued_candidate
from expo_cli.contracts.provenance import read_run
from expo_cli.contracts.records import Sample, StepCandidates
from expo_cli.contracts.rollouts import open_rollout, step_tensors_path
from expo_cli.contracts.shards import part_path
from expo_cli.contracts.tensors import read_tensors
from expo_cli.core.gaussian_steps import clean_latents, gaussian_steps
from expo_cli.errors import ContractError, UsageError
from expo_cli.models.loading import load_model
from expo_cli.models.protocol import Conditioning, DiffusionModel
from expo_cli.models.sampling import guided
from expo_cli.models.schedulers import alphas_at
from expo_cli.rewards.protocol import Batch
from expo_cli.stages.common.decoding import to_images
from tests.branched import SETTINGS, Redness, roll_out_branched

CPU = torch.device("cpu")
# DDIM's timesteps for 4 of 1000 steps, with SD's offset of 1; below 0 the image is finished.
TIMESTEPS = [751, 501, 251, 1]


def contents(folder):
    return {
        path.name: path.read_bytes()
        for path in sorted(folder.iterdir())
        if not path.name.endswith("run.json")
    }


def parts(folder):
    """Each part's samples, steps and step tensors."""
    rollout = open_rollout(folder)
    for n in range(rollout.num_parts):
        tensors = read_tensors(step_tensors_path(folder, n))
        yield rollout.samples(n), list(rollout.steps(n)), tensors


def normal(seed: int) -> torch.Tensor:
    return torch.randn((4, 8, 8), generator=torch.Generator().manual_seed(seed))


def test_every_step_that_is_not_skipped_has_a_record_and_its_tensors(branched):
    for samples, steps, tensors in parts(branched):
        assert [(s.sample_id, s.number) for s in steps] == [
            (sample.sample_id, number) for sample in samples for number in (1, 2, 3)
        ]
        by_id = {sample.sample_id: sample for sample in samples}
        for step in steps:
            sample = by_id[step.sample_id]
            for name in ("prompt_id", "prompt", "negative_prompt", "iteration", "guidance_scale"):
                assert getattr(step, name) == getattr(sample, name)
            assert (step.eta, step.reward) == (1.0, "Redness")
            assert step.timestep == TIMESTEPS[step.number]
            assert step.previous_timestep == step.timestep - 250
            assert len(step.scores) == 3
            assert step.scores[step.winner] == max(step.scores)
            assert step.scores[step.loser] == min(step.scores)
        assert set(tensors) == {
            f"{step.step_id}.{name}" for step in steps for name in ("x_t", "winner", "loser")
        }
        for tensor in tensors.values():
            assert tensor.dtype == torch.float32
            assert tensor.shape == (4, 8, 8)
    counts = [read_run(branched, f"part-0000{n}.run.json").counts for n in (0, 1)]
    assert counts == [{"samples": 4, "steps": 12}, {"samples": 2, "steps": 6}]


def conditioning(model: DiffusionModel, samples: Sequence[Sample]) -> Conditioning:
    """The negative half first; all texts encoded together, as the rollout encodes a part's."""
    texts = [s.negative_prompt for s in samples] + [s.prompt for s in samples]
    distinct = list(dict.fromkeys([*texts[len(samples) :], *texts]))
    return model.encode(distinct).rows([distinct.index(text) for text in texts])


def noise_seen(
    model: DiffusionModel, latents: torch.Tensor, timestep: int, both: Conditioning
) -> torch.Tensor:
    prediction = guided(model, latents, torch.tensor(timestep), both, SETTINGS["guidance_scale"])
    return model.epsilon(prediction, latents, torch.tensor(timestep).expand(len(latents)))


@torch.inference_mode()
def draw_again(
    model: DiffusionModel,
    samples: Sequence[Sample],
    records: Sequence[StepCandidates],
    x_t: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Candidates [candidates, batch, ...] and scores [candidates, batch] of one step of a batch."""
    scheduler, both, first = model.make_scheduler("ddim"), conditioning(model, samples), records[0]
    before, after = torch.tensor([[first.timestep], [first.previous_timestep]])
    step = gaussian_steps(alphas_at(scheduler, before), alphas_at(scheduler, after), first.eta)
    mean = step.mean(x_t, noise_seen(model, x_t, first.timestep, both))
    candidates, scores = [], []
    for candidate in range(len(first.scores)):
        seeds = [candidate_seed(sample.seed, first.number, candidate) for sample in samples]
        drawn = step.draw(mean, torch.stack([normal(seed) for seed in seeds]))
        clean, timestep = drawn, 0
        if first.number + 1 < len(TIMESTEPS):
            timestep = TIMESTEPS[first.number + 1]
            alpha = scheduler.alphas_cumprod[timestep].view(1)
            clean = clean_latents(drawn, noise_seen(model, drawn, timestep, both), alpha)
        images = to_images(model.decode(clean))
        prompts = [sample.prompt for sample in samples]
        judged = Redness().judge_at(Batch(prompts, prompts, images), [timestep] * len(images))
        candidates.append(drawn)
        scores.append([200 * raw for raw in judged.raw])
    return torch.stack(candidates), torch.tensor(scores, dtype=torch.float64)


def test_whoever_has_the_policy_can_draw_the_same_candidates_again(branched, tiny_sd):
    """Read from the files: winner, loser and scores, where each sample continued, and its end."""
    model = load_model(str(tiny_sd), CPU, torch.float32)
    for n, (samples, steps, tensors) in enumerate(parts(branched)):
        finished = read_tensors(open_rollout(branched).latents_path(n))
        for number in (1, 2, 3):
            records = [step for step in steps if step.number == number]
            x_t = torch.stack([tensors[f"{record.step_id}.x_t"] for record in records])
            candidates, scores = draw_again(model, samples, records, x_t)
            for i, (sample, record) in enumerate(zip(samples, records, strict=True)):
                assert record.scores == tuple(scores[:, i].tolist())
                assert tensors[f"{record.step_id}.winner"].equal(candidates[record.winner, i])
                assert tensors[f"{record.step_id}.loser"].equal(candidates[record.loser, i])
                went_on = candidates[record.continued, i]
                if number < 3:
                    assert tensors[f"{sample.sample_id}-{number + 1}.x_t"].equal(went_on)
                else:
                    assert finished[sample.sample_id].equal(went_on.half())


def test_candidates_are_those_of_diffusers_ddim(branched, tiny_sd):
    """Winner and loser as diffusers alone would draw them from x_t."""
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_sd)
    scheduler = load_model(str(tiny_sd), CPU, torch.float32).make_scheduler("ddim")
    scheduler.set_timesteps(4)
    for samples, steps, tensors in parts(branched):
        seeds = {sample.sample_id: sample.seed for sample in samples}
        for step in steps:
            positive, negative = pipeline.encode_prompt(
                step.prompt, CPU, 1, do_classifier_free_guidance=True
            )
            x_t = tensors[f"{step.step_id}.x_t"][None]
            with torch.no_grad():
                unguided, guide = pipeline.unet(
                    x_t.repeat(2, 1, 1, 1), step.timestep, torch.cat([negative, positive])
                ).sample.chunk(2)
            prediction = unguided + step.guidance_scale * (guide - unguided)
            for name in ("winner", "loser"):
                seed = candidate_seed(seeds[step.sample_id], step.number, getattr(step, name))
                expected = scheduler.step(
                    prediction, step.timestep, x_t, eta=step.eta, variance_noise=normal(seed)[None]
                ).prev_sample
                torch.testing.assert_close(
                    tensors[f"{step.step_id}.{name}"][None], expected, atol=1e-4, rtol=1e-3
                )


def test_where_a_sample_goes_on_is_a_function_of_its_seed(branched):
    for samples, steps, _ in parts(branched):
        seeds = {sample.sample_id: sample.seed for sample in samples}
        for step in steps:
            assert step.continued == continued_candidate(seeds[step.sample_id], step.number, 3)


def test_a_sample_goes_on_from_any_candidate():
    chosen = Counter(continued_candidate(seed, 3, 4) for seed in range(4000))
    assert sorted(chosen) == [0, 1, 2, 3]
    assert min(chosen.values()) > 890  # 4 standard deviations below 1000


def test_by_default_no_step_is_skipped(tiny_sd, tmp_path):
    folder = roll_out_branched(tmp_path / "out", tiny_sd, skip_steps=None, num_inference_steps=2)
    samples, steps, tensors = next(parts(folder))
    assert [step.number for step in steps[:2]] == [0, 1]
    # The first x_t is the sample's noise.
    assert tensors[f"{steps[0].step_id}.x_t"].equal(normal(samples[0].seed))


def test_steps_are_branched_without_guidance_too(tiny_sd, tmp_path):
    folder = roll_out_branched(tmp_path / "out", tiny_sd, guidance_scale=1.0, eta=0.3)
    _, steps, _ = next(parts(folder))
    assert {(step.guidance_scale, step.eta) for step in steps} == {(1.0, 0.3)}


def test_shards_and_a_part_drawn_again_give_the_same_bytes(branched, tiny_sd, tmp_path):
    folder = tmp_path / "out"
    for shard in ("1/2", "0/2"):
        roll_out_branched(folder, tiny_sd, shard)
    assert contents(folder) == contents(branched)
    for path in folder.glob("part-00001.*"):
        path.unlink()
    # What a kill between the steps and the records leaves behind.
    part_path(folder, 0).unlink()
    roll_out_branched(folder, tiny_sd)
    assert contents(folder) == contents(branched)


def test_noise_and_choices_do_not_depend_on_the_batch(branched, tiny_sd, tmp_path):
    folder = roll_out_branched(tmp_path / "out", tiny_sd, batch_size=1)
    for (_, steps, tensors), (_, expected, others) in zip(
        parts(folder), parts(branched), strict=True
    ):
        assert [(s.step_id, s.continued) for s in steps] == [
            (s.step_id, s.continued) for s in expected
        ]
        for name in tensors:
            torch.testing.assert_close(tensors[name], others[name], atol=1e-3, rtol=1e-3)


def test_steps_of_a_mixture_state_the_settings_of_their_sample(tiny_sd, tmp_path):
    mixture = "mixture:guidance_scale=1/5,num_inference_steps=2/4"
    settings = {"agent": "explore", "explorer": mixture, "batch_size": 2, "part_size": 3}
    [(samples, steps, _)] = parts(roll_out_branched(tmp_path / "out", tiny_sd, **settings))
    assert [(s.sample_id, s.number, s.guidance_scale) for s in steps] == [
        (sample.sample_id, number, sample.guidance_scale)
        for sample in samples
        for number in range(1, sample.num_inference_steps)
    ]
    assert [sample.guidance_scale for sample in samples] == [1, 5] * 3


def test_a_reward_that_knows_no_timesteps_judges_what_the_policy_sees(
    branched, tiny_sd, tiny_clip, tmp_path
):
    spec = f"mine=pickscore:model={tiny_clip}"
    folder = roll_out_branched(tmp_path / "out", tiny_sd, step_reward=spec)
    for (_, steps, tensors), (_, _, others) in zip(parts(folder), parts(branched), strict=True):
        assert {step.reward for step in steps} == {"mine"}
        for step in steps:
            # The candidate from which a sample continues does not depend on the scores.
            assert tensors[f"{step.step_id}.x_t"].equal(others[f"{step.step_id}.x_t"])


def test_candidates_are_continued_only_by_the_reward_that_began_them(branched, tiny_sd, tmp_path):
    folder = tmp_path / "out"
    shutil.copytree(branched, folder)
    with pytest.raises(ContractError, match="was begun with step_reward of "):
        roll_out_branched(folder, tiny_sd, step_reward="tests.branched.Redness:strength=1")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_step_candidates": 1}, "--num-step-candidates must be at least 2, got 1"),
        ({"step_reward": None}, "--num-step-candidates needs --step-reward"),
        ({"skip_steps": -1}, "--skip-steps must not be negative, got -1"),
        ({"num_step_candidates": None}, "--step-reward needs --num-step-candidates"),
        (
            {"num_step_candidates": None, "step_reward": None},
            "--skip-steps needs --num-step-candidates",
        ),
    ],
)
def test_flags_that_contradict_each_other(settings, message, tiny_sd, tmp_path):
    with pytest.raises(ValueError, match=message):
        roll_out_branched(tmp_path / "out", tiny_sd, **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"eta": 0.0}, "needs steps with noise, .* not ddim with eta 0"),
        ({"eta": 0.0, "scheduler": "ddpm"}, "needs steps with noise, .* not ddpm with eta 0"),
        ({"skip_steps": 4}, "--skip-steps 4 leaves none of 4 steps"),
        ({"step_reward": "step-pikscore"}, "did you mean 'step-pickscore'"),
        ({"step_reward": "tests.branched.Redness:power=2"}, "has no option 'power'"),
    ],
)
def test_steps_that_cannot_be_branched(settings, message, tiny_sd, tmp_path):
    with pytest.raises(UsageError, match=message):
        roll_out_branched(tmp_path / "out", tiny_sd, **settings)
    assert not (tmp_path / "out").exists()
