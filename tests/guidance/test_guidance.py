import math

import pytest
import torch
import torch.nn.functional as F
from small import SIZE, colour_ddn, digits, pictures, small_ddn

from discrete_distribution_network.errors import InvalidInput
from discrete_distribution_network.guidance import (
    Classifier,
    Colorize,
    ColorStrokes,
    Custom,
    Inpaint,
    Match,
    RatePenalty,
    SuperResolve,
)
from discrete_distribution_network.guidance.choice import greedy
from discrete_distribution_network.guidance.config import GuidanceConfig, Request
from discrete_distribution_network.guidance.selection import GuidedSelection
from discrete_distribution_network.model.selection import FixedCodes
from discrete_distribution_network.model.tensors import gather_state, resize
from discrete_distribution_network.prior import Frequencies, Prior


def half():
    mask = torch.zeros(SIZE, SIZE)
    mask[:, : SIZE // 2] = 1
    return mask


def strokes():
    mask = torch.zeros(SIZE, SIZE)
    mask[2:7, 3:5] = 1
    mask[12, 8:] = 1
    return mask


GREY_SHARES = torch.tensor([[0.299, 0.587, 0.114]], dtype=torch.float64)


def known_half(images, candidates):
    """What `Inpaint` of the left half compares at a level, written down once more: (squared errors, of how many)."""
    size, mask = candidates.shape[-2:], half().double().expand(len(images), 1, -1, -1)
    share = F.adaptive_avg_pool2d(mask, size)
    target = F.adaptive_avg_pool2d(images * mask, size) / share.clamp_min(1e-30)
    return (candidates - target.unsqueeze(1)).square() * share.unsqueeze(1)


def everywhere(images, candidates):
    return (candidates - F.adaptive_avg_pool2d(images, candidates.shape[-2:]).unsqueeze(1)).square()


def in_few_pixels(side):
    def errors(images, candidates):
        small = F.adaptive_avg_pool2d(images, side)
        side_now = min(side, candidates.shape[-1])
        shown = F.adaptive_avg_pool2d(candidates.flatten(0, 1), side_now).unflatten(0, candidates.shape[:2])
        return (shown - F.adaptive_avg_pool2d(small, side_now).unsqueeze(1)).square()

    return errors


def grey(images, candidates):
    difference = candidates - F.adaptive_avg_pool2d(images, candidates.shape[-2:]).unsqueeze(1)
    return torch.einsum("gc,bkchw->bkghw", GREY_SHARES, difference).square()


def coloured(images, candidates):
    mask = strokes().double().expand(len(images), 1, -1, -1)
    side = min(candidates.shape[-1], SIZE // 4)
    share = F.adaptive_avg_pool2d(mask, side)
    target = F.adaptive_avg_pool2d(images * mask, side) / share.clamp_min(1e-30)
    shown = F.adaptive_avg_pool2d(candidates.flatten(0, 1), side).unflatten(0, candidates.shape[:2])
    return (shown - target.unsqueeze(1)).square() * share.unsqueeze(1)


LINEAR = {
    "match": (lambda x: Match(x), everywhere),
    "inpaint": (lambda x: Inpaint(x, half()), known_half),
    "super-resolve": (lambda x: SuperResolve(F.adaptive_avg_pool2d(x, 8)), in_few_pixels(8)),
    "super-resolve, few": (lambda x: SuperResolve(F.adaptive_avg_pool2d(x, 4)), in_few_pixels(4)),
    "colorize": (lambda x: Colorize((x * GREY_SHARES.float().reshape(3, 1, 1)).sum(1, keepdim=True)), grey),
    "strokes": (lambda x: ColorStrokes(x, strokes()), coloured),
}


class Beside:
    """A guided selection whose choices are compared with those of all candidates, drawn in float64."""

    def __init__(self, guidance, images, parts):
        self.guidance, self.images, self.parts = guidance, images.double(), parts
        self.equal = self.count = 0

    def __call__(self, level, sampler, features, residual):
        step = self.guidance(level, sampler, features, residual)
        heads, normed = sampler.keys.weight.double(), sampler.norm(features).double()
        drawn = torch.einsum("kcd,bdhw->bkchw", heads, normed) + residual.double().unsqueeze(1)
        shape = step.codes.shape[1:] or (1, 1)
        for row in range(shape[0]):
            for column in range(shape[1]):
                # the whole candidates, of which one patch counts: others as they are do not change the order
                cost = 0
                for errors, weight in self.parts:
                    own = errors(self.images, drawn)
                    own = own / own[0, 0].numel()
                    h, w = own.shape[3] // shape[0], own.shape[4] // shape[1]
                    patch = own[..., row * h : (row + 1) * h, column * w : (column + 1) * w]
                    cost = cost + weight * patch.sum((2, 3, 4))
                chosen = step.codes if step.codes.ndim == 1 else step.codes[:, row, column]
                informed = cost.amax(1) > cost.amin(1)
                best = cost.amin(1)
                equal = cost.gather(1, chosen.unsqueeze(1)).squeeze(1) <= best * (1 + 1e-5)
                self.equal += int((equal & informed).sum())
                self.count += int(informed.sum())
        return step


@pytest.mark.parametrize("names", [*((name,) for name in LINEAR), tuple(LINEAR)], ids=str)
def test_linear_conditions_choose_what_all_candidates_in_float64_say(names):
    ddn, images = colour_ddn(), pictures(16)
    weights = [1.0, 0.5, 2.0, 1.0, 3.0, 0.7][: len(names)]
    conditions = [LINEAR[name][0](images) for name in names]
    for condition, weight in zip(conditions, weights, strict=True):
        condition.weight = weight
    parts = [(LINEAR[name][1], weight) for name, weight in zip(names, weights, strict=True)]
    request = Request(conditions, 16, ddn.num_levels)
    beside = Beside(GuidedSelection(ddn, request, GuidanceConfig(), greedy), images, parts)
    with torch.no_grad():
        ddn.walk(beside, 16)
    assert beside.count >= 16 * ddn.num_levels
    assert beside.equal >= 0.999 * beside.count


def test_matching_an_image_is_encoding_it():
    ddn, images = colour_ddn(), pictures()
    guided = ddn.guide(Match(images))
    assert torch.equal(guided.codes, ddn.encode(images))
    torch.testing.assert_close(guided.images, ddn.decode(guided.codes))
    errors = (guided.images - images).square().mean((1, 2, 3))
    torch.testing.assert_close(guided.scores[:, -1, 0], -errors)


@pytest.mark.parametrize("patches", [None, [None, 4, 8]])
def test_beams_find_better_codes_and_never_lose_their_way(patches):
    ddn, images = colour_ddn(patch_size=patches), pictures(16)
    errors = {}
    for beams in (1, 4, 16):
        walk = ddn.encode_walk(images, beams=beams)
        torch.testing.assert_close(ddn.decode(walk.codes), walk.outputs[-1])
        for level, output in enumerate(walk.outputs):
            prefix = walk.codes[:, : sum(ddn.codes_per_level[: level + 1])]
            torch.testing.assert_close(ddn.decode(prefix), resize(output, ddn.image_size))
        errors[beams] = float((walk.outputs[-1] - images).square().mean())
        torch.testing.assert_close(float(walk.losses[-1]), errors[beams])
    assert errors[16] < errors[4] < errors[1]


def test_beams_that_hold_every_walk_find_the_best_of_all():
    ddn, images = colour_ddn(codebook_size=3, levels_per_resolution=1, patch_size=None), pictures(5)
    codes = torch.cartesian_prod(*[torch.arange(3)] * 3)
    errors = (ddn.decode(codes).unsqueeze(1) - images).square().mean((2, 3, 4))
    assert torch.equal(ddn.encode(images, beams=27), codes[errors.argmin(0)])


@pytest.mark.parametrize("beams", [3, 27])
def test_the_rate_of_a_level_stays_with_its_walk_at_later_levels(beams):
    ddn, images = colour_ddn(codebook_size=3, levels_per_resolution=1, patch_size=None), pictures(5)
    prior, weight = Frequencies([torch.tensor([0.0, 1000.0, 1000.0])] * 3, ddn.code_shapes), 0.015
    bits = -prior.logits(0, ddn.start, 1)[0] / math.log(2)

    def search(image):
        """A beam search, written down once more: the penalty holds at the first level only."""
        kept = torch.empty(1, 0, dtype=torch.long)
        for level, size in enumerate(ddn.level_sizes):
            kept = torch.cat((kept.repeat_interleave(3, 0), torch.arange(3).repeat(len(kept)).unsqueeze(1)), 1)
            drawn = ddn.walk(FixedCodes(ddn.split_codes(kept)), len(kept), level + 1).outputs[-1]
            errors = (drawn - resize(image.unsqueeze(0), size)).square().mean((1, 2, 3))
            cost = errors + weight * bits[kept[:, 0]]
            kept = kept[cost.argsort()[:beams]]
        return kept[0]

    penalty = RatePenalty(prior, weight=weight, levels=[0])
    codes = ddn.guide([Match(images), penalty], beams=beams).codes
    assert not torch.equal(codes, ddn.encode(images, beams=beams))
    with torch.no_grad():
        assert torch.equal(codes, torch.stack([search(image) for image in images]))


def test_beams_with_fewer_candidates_than_beams_grow():
    ddn, images = colour_ddn(codebook_size=2, patch_size=None), pictures(3)
    assert ddn.encode(images, beams=8).shape == (3, ddn.num_levels)


def test_beams_walk_a_recurrent_network_and_one_by_class():
    torch.manual_seed(0)
    recurrent = small_ddn(image_size=SIZE, recurrence=2, levels_per_resolution=[0, 0, 2]).eval()
    by_class = small_ddn(image_size=SIZE, num_classes=3).eval()
    images, labels = pictures(3, 1), torch.tensor([0, 2, 1])
    codes = recurrent.encode(images, beams=4)
    walk = by_class.encode_walk(images, labels=labels, beams=4)
    assert codes.shape == (3, 4)
    torch.testing.assert_close(by_class.decode(walk.codes, labels), walk.outputs[-1])


def brightness(images):
    return images.flatten(1).mean(1)


@pytest.mark.parametrize("patches", [None, [None, 4, 8]])
def test_any_callable_guides(patches):
    ddn = colour_ddn(patch_size=patches)
    generator = torch.Generator().manual_seed(0)
    guided = ddn.guide(brightness, 6, generator=generator)
    plain = ddn.sample(64, generator=generator)
    assert brightness(guided.images).min() > brightness(plain).max()
    torch.testing.assert_close(guided.scores[:, -1, 0], brightness(guided.images))
    torch.testing.assert_close(guided.images, ddn.decode(guided.codes))


def test_a_black_box_that_is_linear_in_truth_chooses_like_the_linear_one():
    ddn, images = colour_ddn(patch_size=None), pictures(1)

    def likeness(candidates):
        return -(candidates - images).square().mean((1, 2, 3))

    levels = [ddn.num_levels - 2, ddn.num_levels - 1]  # those of the full size, where both compare the same pixels
    start = Match(images, levels=range(ddn.num_levels - 2))
    by_black_box = ddn.guide([start, Custom(likeness, levels=levels)])
    assert torch.equal(by_black_box.codes, ddn.encode(images))


def test_beams_of_black_boxes_are_better_too():
    ddn = colour_ddn(patch_size=None)
    torch.manual_seed(1)
    direction = torch.randn(3, SIZE, SIZE)

    def along(images):
        return (images * direction).sum((1, 2, 3)).sin()

    one = ddn.guide(along, 4)
    several = ddn.guide(along, 4, beams=8)
    assert along(several.images).mean() >= along(one.images).mean()
    torch.testing.assert_close(several.scores[:, -1, 0], along(several.images))
    torch.testing.assert_close(several.images, ddn.decode(several.codes))


def test_black_boxes_and_measurements_are_ranked_together():
    ddn, images = colour_ddn(), pictures(2)
    mask = half()
    left = Inpaint(images, mask)
    both = ddn.guide([left, Custom(brightness, weight=0.5, region=1 - mask)], 2)
    linear = ddn.guide(left, 2, generator=torch.Generator().manual_seed(0))
    right = slice(SIZE // 2, None)
    assert both.images[..., right].mean() > linear.images[..., right].mean()
    assert both.scores.shape == (2, ddn.num_levels, 2)
    random = ddn.sample(2, generator=torch.Generator().manual_seed(0))
    error = ((both.images - images).square() * mask).mean()
    assert error < ((random - images).square() * mask).mean()


def test_conditions_hold_at_their_levels_and_for_their_images():
    ddn, images = colour_ddn(), pictures(2)
    early = Match(images, levels=[0, 1])
    guided = ddn.guide(early, generator=torch.Generator().manual_seed(0))
    assert torch.equal(guided.codes[:, :2], ddn.encode(images)[:, :2])
    assert torch.isnan(guided.scores[:, 2:]).all()
    assert torch.isfinite(guided.scores[:, :2]).all()
    first = Match(images, weight=torch.tensor([1.0, 0.0]))
    second = Match(1 - images, weight=torch.tensor([0.0, 1.0]))
    mixed = ddn.guide([first, second])
    assert torch.equal(mixed.codes[0], ddn.encode(images)[0])
    assert torch.equal(mixed.codes[1], ddn.encode(1 - images)[1])


def test_unconstrained_nodes_are_drawn_at_random_or_by_the_prior():
    ddn, images = colour_ddn(), pictures(1).expand(600, -1, -1, -1)
    corner = torch.zeros(SIZE, SIZE)
    corner[:4, :4] = 1  # within the first patch of every level with patches
    last = ddn.codes_per_level[-1]
    codes = ddn.guide(Inpaint(images, corner), generator=torch.Generator().manual_seed(0)).codes[:, -last:]
    assert len(codes[:, 0].unique()) < 32
    assert all(len(codes[:, place].unique()) == 32 for place in range(1, last))
    counts = [torch.zeros(32, dtype=torch.long).index_fill(0, torch.tensor([3, 7]), 10**6) for _ in ddn.codebook_sizes]
    prior = Frequencies(counts, ddn.code_shapes)
    codes = ddn.guide(Inpaint(images, corner), prior=prior, generator=torch.Generator().manual_seed(0)).codes[:, -last:]
    assert set(codes[:, 1:].unique().tolist()) == {3, 7}
    few = ddn.guide(Inpaint(images, corner), prior=prior, proposals=2).codes
    assert set(few.unique().tolist()) == {3, 7}


def test_a_prior_proposes_and_the_conditions_choose():
    ddn, images = colour_ddn(), pictures(8)
    torch.manual_seed(0)
    prior = Prior(ddn, dim=8).eval()
    for beams in (1, 3):
        everything = ddn.guide(Match(images), prior=prior, proposals=32, beams=beams)
        assert torch.equal(everything.codes, ddn.encode(images, beams=beams))
    for beams in (1, 4):
        some = ddn.guide(Inpaint(images, half()), prior=prior, proposals=8, beams=beams)
        torch.testing.assert_close(some.images, ddn.decode(some.codes))
    bright = ddn.guide([brightness, Inpaint(images, half())], prior=prior, proposals=4, beams=2)
    torch.testing.assert_close(bright.images, ddn.decode(bright.codes))


class Echo(Frequencies):
    """A prior by which a patch almost surely has the code of the patch before it."""

    def draw(self, level, features, state, pick):
        scores = self.logits(level, features, state).float().movedim(1, -1)
        codes = torch.zeros(scores.shape[:-1], dtype=torch.long)
        flat, before = codes.view(len(codes), -1), None
        for place in range(flat.shape[1]):
            own = scores.flatten(1, -2)[:, place] if scores.ndim > 2 else scores
            if before is not None:
                own = own + 50 * F.one_hot(before, own.shape[-1])
            before = flat[:, place] = pick(own.unsqueeze(1))[:, 0]
        return codes


def test_what_is_drawn_fits_the_patches_that_are_known():
    ddn, images = colour_ddn(), pictures()
    prior = Echo([torch.ones(size) for size in ddn.codebook_sizes], ddn.code_shapes)
    codes = ddn.guide(Inpaint(images, half()), prior=prior, proposals=32).codes
    last = codes[:, -4:]  # of 2x2 patches: the left ones are known, each right one comes after its left one
    assert torch.equal(last[:, 1], last[:, 0])
    assert torch.equal(last[:, 3], last[:, 2])
    assert not torch.equal(last[:, 2], last[:, 0])
    # as the prior proposes all nodes, the known half is the same as without a prior
    plain = ddn.guide(Inpaint(images, half())).codes
    first = ddn.codes_per_level[0]
    assert torch.equal(plain[:, :first], codes[:, :first])


def test_top_k_chooses_among_the_best():
    ddn, images = colour_ddn(levels_per_resolution=1, patch_size=None), pictures(1).expand(300, -1, -1, -1)
    codes = ddn.guide(Match(images), top_k=3, generator=torch.Generator().manual_seed(0)).codes
    assert len(codes[:, 0].unique()) == 3
    again = ddn.guide(Match(images), top_k=3, generator=torch.Generator().manual_seed(0)).codes
    assert torch.equal(codes, again)


def wrong_shape(images):
    return images.mean((2, 3))


def not_a_number(images):
    return images.mean((1, 2, 3)) * torch.nan


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda x: Match(x[:, :, :-1]), ["Match", "(1 or 4, 3, 16, 16)", "(4, 3, 15, 16)"]),
        (lambda x: Inpaint(x, torch.zeros(SIZE, SIZE)), ["mask of Inpaint", "known pixel", "empty"]),
        (lambda x: Inpaint(x, half()[:-1]), ["mask of Inpaint", "(1 or 4, 1, 16, 16)"]),
        (lambda x: Inpaint(x, half() * 2), ["mask of Inpaint", "from 0 to 1"]),
        (lambda x: SuperResolve(x[:, :1, :4, :4]), ["SuperResolve", "(1 or 4, 3, 4, 4)"]),
        (lambda x: Colorize(x), ["Colorize", "(1 or 4, 1, 16, 16)"]),
        (lambda x: Match(x.long()), ["Match", "floating-point"]),
        (lambda x: Match(x * torch.nan), ["Match", "finite"]),
        (lambda x: Match(x, weight=-1), ["Match", "weight"]),
        (lambda x: Match(x, region=half()[1:]), ["region of Match", "(1, 1, 15, 16)"]),
        (lambda x: wrong_shape, ["wrong_shape", "level 0", "(4, 32)"]),
        (lambda x: not_a_number, ["not_a_number", "level 0", "finite"]),
        (lambda x: Custom(not_a_number, levels=[3]), ["not_a_number", "level 3", "finite"]),
        (lambda x: Classifier(lambda images: images.mean((2, 3)), 3), ["Classifier", "[0, 3)"]),
        (lambda x: [], ["at least one condition"]),
    ],
)
def test_a_condition_that_does_not_fit_is_named(make, words):
    ddn, images = colour_ddn(), pictures(4)
    with pytest.raises(InvalidInput) as raised:
        ddn.guide(make(images), 4)
    message = str(raised.value)
    assert all(word in message for word in words), message
    assert "\n" not in message


def test_beams_and_top_k_exclude_each_other():
    with pytest.raises(InvalidInput, match="top_k=1 with beams"):
        colour_ddn().guide(brightness, 2, top_k=2, beams=2)


def test_rows_of_states():
    rows = torch.tensor([2, 2, 0])
    assert gather_state(5, rows) == 3
    assert gather_state(torch.arange(3.0), rows).tolist() == [2, 2, 0]


def test_rollouts_find_the_best_of_all_images():
    ddn = small_ddn(levels_per_resolution=[0, 2]).eval()
    with torch.no_grad():
        for sampler in ddn.samplers:
            sampler.keys.weight.normal_(0, 0.3)
    every = ddn.decode(torch.cartesian_prod(torch.arange(8), torch.arange(8)))
    target = digits(3) / 255

    def like(images):  # what is liked differs from image to image
        return -(images.unflatten(0, (3, -1)) - target.unsqueeze(1)).square().mean((2, 3, 4)).flatten()

    guided = ddn.guide(Custom(like), 3, rollouts=600, generator=torch.Generator().manual_seed(0))
    best = -(every - target.unsqueeze(1)).square().mean((2, 3, 4))
    torch.testing.assert_close(guided.scores[:, -1, 0], best.amax(1))
    torch.testing.assert_close(like(guided.images), best.amax(1))


def test_rollouts_judge_finished_images_and_keep_the_best():
    ddn = colour_ddn()
    generator = torch.Generator().manual_seed(0)
    seen = []

    def bright(images):
        seen.append(images)
        return brightness(images)

    guided = ddn.guide(Custom(bright, levels=[2]), 2, rollouts=6, beams=2, generator=generator)
    # 6 for each of two beams, then 3 for each from the third level on
    assert sum(map(len, seen)) == 2 * (6 * 2 + 3 * 2)
    scores = guided.scores[:, :, 0]
    assert scores.shape == (2, ddn.num_levels)
    assert bool((scores.diff(dim=1) >= 0).all())
    torch.testing.assert_close(scores[:, -1], brightness(guided.images))
    torch.testing.assert_close(ddn.decode(guided.codes), guided.images)
    judged = torch.cat([brightness(images.unflatten(0, (2, -1)).flatten(0, 1)) for images in seen])
    assert float(scores[:, -1].max()) == pytest.approx(float(judged.max()), abs=1e-6)


def test_rollouts_are_guided_by_linear_conditions():
    ddn, images = colour_ddn(), pictures(2)
    left, mask = Inpaint(images, half()), half()
    generator = torch.Generator().manual_seed(0)
    linear = ddn.guide(left, generator=generator)
    both = ddn.guide([left, Custom(brightness)], rollouts=8, generator=generator)
    assert both.scores.shape == (2, ddn.num_levels, 2)
    torch.testing.assert_close(both.scores[:, -1, 1], brightness(both.images))
    assert float(both.scores[:, -1, 1].mean()) > float(brightness(linear.images).mean())
    errors = [((own.images - images).square() * mask).mean() for own in (linear, both)]
    assert float(errors[1]) < 2 * float(errors[0])
    with pytest.raises(InvalidInput, match="a black box among the conditions for rollouts=4, got Inpaint"):
        ddn.guide(left, rollouts=4)


def test_rollouts_of_a_network_by_class_with_a_prior():
    ddn = small_ddn(num_classes=3).eval()
    prior = Prior(ddn, dim=8, num_classes=3).eval()
    labels = torch.tensor([2, 0])
    guided = ddn.guide(Custom(lambda x: x.mean((1, 2, 3))), prior=prior, labels=labels, rollouts=5)
    torch.testing.assert_close(ddn.decode(guided.codes, labels), guided.images)
