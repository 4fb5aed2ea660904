import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as TF

from fedsim.data.config import StrongView
from fedsim.data.transforms import augment, crop_padding, draw_augmentation, no_draws, normalize, strong_view


def slow_augment(image, dy, dx, flip, pad):
    channels, height, width = image.shape
    out = np.zeros_like(image)
    for c in range(channels):
        for i in range(height):
            for j in range(width):
                source_i, source_j = i + dy - pad, (width - 1 - j if flip else j) + dx - pad
                if 0 <= source_i < height and 0 <= source_j < width:
                    out[c, i, j] = image[c, source_i, source_j]
    return out


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 5, 7)])
@pytest.mark.parametrize("pad", [1, 4])
def test_augment_is_its_slow_twin(shape, pad):
    rng = np.random.default_rng(0)
    x = rng.integers(1, 256, (40, *shape), dtype=np.uint8)
    draws = draw_augmentation(rng, 40, "crop_flip", pad)
    fast = augment(torch.from_numpy(x), torch.from_numpy(draws), pad)
    slow = np.stack([slow_augment(image, *draw, pad) for image, draw in zip(x, draws, strict=True)])  # type: ignore[call-arg]
    assert fast.dtype == torch.uint8
    np.testing.assert_array_equal(fast.numpy(), slow)


def test_draws_cover_their_range_and_no_more():
    draws = draw_augmentation(np.random.default_rng(0), 2000, "crop_flip", 2)
    assert [sorted(set(column)) for column in draws.T.tolist()] == [[0, 1, 2, 3, 4], [0, 1, 2, 3, 4], [0, 1]]
    assert not draw_augmentation(np.random.default_rng(0), 50, "crop", 2)[:, 2].any()


def test_none_is_the_identity():
    x = torch.randint(0, 256, (5, 3, 6, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    draws = torch.from_numpy(draw_augmentation(np.random.default_rng(0), 5, "none", 3))
    assert torch.equal(augment(x, draws, 3), x)


SMOOTH = torch.nn.functional.interpolate(
    torch.rand(4, 3, 5, 5, generator=torch.Generator().manual_seed(0)), (32, 32), mode="bilinear"
).mul(255).round().to(torch.uint8)  # fmt: skip


def changed(flip=0.0, shear=0.0, scale=1.0, brightness=1.0, contrast=1.0, saturation=1.0):
    draws = torch.tensor([[flip, shear, scale, brightness, contrast, saturation]]).repeat(len(SMOOTH), 1)
    return augment(SMOOTH, draws, 4)


def test_affine_draws_of_nothing_are_the_identity_and_flips_are_exact():
    assert torch.equal(changed(), SMOOTH)
    assert torch.equal(augment(SMOOTH, torch.from_numpy(no_draws((4,), "flip_affine_jitter", 4)), 4), SMOOTH)
    assert torch.equal(changed(flip=1.0), SMOOTH.flip(3))
    kept = draw_augmentation(np.random.default_rng(0), 50, "flip", 2)
    assert set(map(tuple, kept.tolist())) == {(2, 2, 0), (2, 2, 1)}


@pytest.mark.parametrize(("shear", "scale"), [(0.0, 1.2), (0.0, 0.8), (9.0, 1.0), (-7.0, 1.1)])
def test_shear_and_scale_are_torchvisions(shear, scale):
    theirs = TF.affine(SMOOTH, angle=0.0, translate=[0, 0], scale=scale, shear=[shear, 0.0])
    ours = changed(shear=-shear, scale=scale)
    mirrored = changed(shear=shear, scale=scale)
    differ = min((image != theirs).any(1).float().mean() for image in (ours, mirrored))
    assert differ < 0.02  # pixels half way between two


@pytest.mark.parametrize("factor", [0.8, 1.15])
def test_colours_are_torchvisions(factor):
    for name in ("brightness", "contrast", "saturation"):
        theirs = getattr(TF, f"adjust_{name}")(SMOOTH, factor)
        assert (changed(**{name: factor}).int() - theirs.int()).abs().max() <= 1


def test_affine_draws_stay_in_their_ranges():
    draws = draw_augmentation(np.random.default_rng(0), 2000, "flip_affine_jitter", 4)
    assert set(draws[:, 0]) == {0, 1}
    assert 9 < abs(draws[:, 1]).max() <= 10
    assert 0.8 <= draws[:, 2:].min() < 0.81
    assert 1.19 < draws[:, 2:].max() <= 1.2


def test_padding_by_image_size():
    assert [crop_padding(s) for s in [(1, 8, 8), (1, 15, 28), (1, 16, 16), (3, 32, 32), (12,)]] == [1, 1, 4, 4, 0]


def test_normalize_images_and_tables():
    x = np.random.default_rng(0).integers(0, 256, (4, 2, 3, 5, 5), dtype=np.uint8)
    mean, std = (0.1, 0.5, 0.9), (0.2, 0.3, 0.4)
    expected = (x / 255.0 - np.reshape(mean, (3, 1, 1))) / np.reshape(std, (3, 1, 1))
    result = normalize(torch.from_numpy(x), mean, std)
    assert result.dtype == torch.float32
    np.testing.assert_allclose(result.numpy(), expected, atol=1e-6)
    table = np.random.default_rng(1).normal(size=(6, 3)).astype(np.float32)
    np.testing.assert_allclose(normalize(torch.from_numpy(table), mean, std).numpy(), (table - mean) / std, atol=1e-5)


def test_strong_view_of_rows_drops_features_to_their_mean_and_adds_noise_in_their_units():
    x, mean, std = 5.0 + 2.0 * torch.ones(400, 50), torch.full((50,), 5.0), torch.full((50,), 4.0)
    torch.manual_seed(0)
    dropped = strong_view(x, mean, std, StrongView(feature_dropout=0.25, feature_noise=0.0))
    assert sorted(dropped.unique().tolist()) == [0.0, 0.5]
    assert float((dropped == 0).float().mean()) == pytest.approx(0.25, abs=0.02)  # 5 standard errors
    noisy = strong_view(x, mean, std, StrongView(feature_dropout=0.0, feature_noise=0.3))
    assert float(noisy.mean()) == pytest.approx(0.5, abs=0.02)
    assert float(noisy.std()) == pytest.approx(0.3, abs=0.02)


@pytest.mark.parametrize("channels", [1, 3])
def test_strong_view_of_images_is_randaugment(channels):
    x = torch.randint(0, 256, (6, channels, 12, 12), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    mean, std = torch.full((channels,), 0.4), torch.full((channels,), 0.2)
    assert torch.equal(strong_view(x, mean, std, StrongView(num_ops=0)), normalize(x, mean, std))
    torch.manual_seed(0)
    mild, strong = (strong_view(x, mean, std, StrongView(num_ops=3, magnitude=m)) for m in (1, 30))
    assert mild.shape == x.shape
    assert mild.isfinite().all()
    assert not torch.equal(mild, strong)
    again = []
    for _ in range(2):
        torch.manual_seed(1)
        again.append(strong_view(x, mean, std, StrongView(num_ops=3, magnitude=9)))
    assert torch.equal(*again)
