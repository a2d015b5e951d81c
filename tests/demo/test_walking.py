import pytest
import torch
from small import colour_ddn, digits, pictures, small_ddn

from discrete_distribution_network.demo.walking import Walker
from discrete_distribution_network.errors import InvalidInput
from discrete_distribution_network.model.tensors import resize
from discrete_distribution_network.prior.heads import Prior


@pytest.mark.parametrize("make", [colour_ddn, lambda: small_ddn(patch_size=None).eval()])
def test_every_choice_shows_what_it_leads_to(make):
    ddn = make()
    walker = Walker(ddn)
    image = pictures(1)[0] if ddn.channels == 3 else digits(1)[0] / 255
    codes = walker.follow(image)
    assert codes == tuple(ddn.encode(image.unsqueeze(0))[0].tolist())
    for made in range(len(codes)):
        choice = walker.choice(codes[:made])
        assert len(choice.images) == ddn.codebook_sizes[choice.level]
        assert walker.level_of(codes[:made]) == (choice.level, choice.patch or 0)
        so_far = walker.image(codes[: made + 1])
        shown = resize(choice.images[codes[made]].unsqueeze(0), ddn.image_size)[0].clamp(0, 1)
        torch.testing.assert_close(so_far, shown, atol=1e-5, rtol=1e-4)
    assert walker.done(codes)
    torch.testing.assert_close(walker.image(codes), ddn.decode(torch.tensor([codes]))[0].clamp(0, 1))


def test_the_rest_is_drawn_after_what_was_chosen():
    ddn = colour_ddn()
    torch.manual_seed(0)
    for prior in (None, Prior(ddn, dim=8).eval()):
        ddn.prior = prior
        walker = Walker(ddn)
        for chosen in ((), (3,), (3, 1, 4), (3, 1, 4, 1, 5, 9, 2)):
            one, other, third = (walker.finish(chosen, seed) for seed in (0, 0, 1))
            assert one[: len(chosen)] == chosen
            assert walker.done(one)
            assert one == other != third
        assert walker.choice((3,)).chances is None if prior is None else walker.choice((3,)).chances.shape == (32,)


def test_by_class():
    ddn = small_ddn(num_classes=3).eval()
    with torch.no_grad():
        for parameter in ddn.stages.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    one, other = (Walker(ddn, label).image((1, 2, 3, 4)) for label in (0, 1))
    assert not torch.allclose(one, other)


def test_codes_as_text():
    ddn = colour_ddn()
    walker = Walker(ddn)
    codes = (1, 2, 3, 4, 5, 6, 7)
    assert walker.written(codes) == "1 | 2 | 3 4 5 6 | 7"
    assert walker.parse(walker.written(codes)) == codes
    assert walker.parse(" 1,2 ") == (1, 2)
    assert walker.parse("") == ()
    for text, said in (("a", "numbers and bars"), ("32", "below 32"), ("1 " * 99, "at most"), ("-1", "numbers")):
        with pytest.raises(InvalidInput, match=said):
            walker.parse(text)
