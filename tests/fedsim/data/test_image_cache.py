"""Images of all kinds become the same small pictures, once; broken ones are named."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fedsim.data.image_cache import decode, decoded, missing
from fedsim.errors import FedsimError

RNG = np.random.default_rng(0)
PHOTO = np.kron(RNG.integers(0, 256, (4, 6, 3)), np.ones((8, 8, 1))).astype(np.uint8)  # 32 high, 48 wide


def middle(pixels: np.ndarray) -> np.ndarray:
    """Return the middle 32 x 32 of the photograph, (C, H, W)."""
    return pixels[:, 8:40].transpose(2, 0, 1)


def saved(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


def test_the_short_side_is_resized_and_the_middle_cut_out(tmp_path: Path) -> None:
    png = saved(tmp_path / "a.png", Image.fromarray(PHOTO))
    assert np.array_equal(decode(png, 32, 3), middle(PHOTO))
    half = np.asarray(Image.fromarray(PHOTO).resize((24, 16), Image.Resampling.BILINEAR))[:, 4:20]
    assert np.array_equal(decode(png, 16, 3), half.transpose(2, 0, 1))
    upright = decode(saved(tmp_path / "b.png", Image.fromarray(PHOTO.transpose(1, 0, 2))), 32, 3)
    assert np.array_equal(upright, middle(PHOTO).transpose(0, 2, 1))
    assert decode(png, 50, 3).shape == (3, 50, 50)


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "RGBA", "LA", "1"])
@pytest.mark.parametrize("channels", [1, 3])
def test_other_kinds_of_images(tmp_path: Path, mode: str, channels: int) -> None:
    image = Image.fromarray(PHOTO).convert(mode)
    got = decode(saved(tmp_path / f"a.{'tif' if mode == 'CMYK' else 'png'}", image), 32, channels)
    want = np.asarray(image.convert("RGB").convert("RGB" if channels == 3 else "L"))
    want = middle(want) if channels == 3 else want[None, :, 8:40]
    assert np.abs(got.astype(int) - want).max() <= 1


def test_16_bit_grey_and_jpegs_and_turned_photographs(tmp_path: Path) -> None:
    deep = Image.fromarray(PHOTO[:, :, 0].astype(np.uint16) << 8)
    assert np.array_equal(decode(saved(tmp_path / "a.png", deep), 32, 1)[0], PHOTO[:, 8:40, 0])
    jpeg = decode(saved(tmp_path / "a.jpg", Image.fromarray(PHOTO), quality=95, subsampling=0), 32, 3)
    assert np.abs(jpeg.astype(int) - middle(PHOTO)).mean() < 2
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter to the right
    turned = decode(saved(tmp_path / "t.png", Image.fromarray(PHOTO), exif=exif), 32, 3)
    assert np.array_equal(turned, middle(PHOTO).transpose(0, 2, 1)[:, :, ::-1])


def files(root: Path, count: int = 5) -> list[str]:
    images = RNG.integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    for number, image in enumerate(images):
        Image.fromarray(image).save(root / f"{number}.png")
    return [f"{number}.png" for number in range(count)]


def test_the_cache_is_used_until_a_file_changes(tmp_path: Path) -> None:
    names = files(tmp_path)
    first = decoded(tmp_path, names, 8, 3)
    whole = np.stack([np.asarray(Image.open(tmp_path / name)).transpose(2, 0, 1) for name in names])
    assert np.array_equal(first.x, whole)
    assert not first.x.flags.writeable
    (cache,) = [file for file in (tmp_path / ".fedsim").iterdir() if len(file.suffixes) == 1]
    before = cache.stat().st_mtime_ns
    assert np.array_equal(decoded(tmp_path, names, 8, 3).x, whole)
    assert cache.stat().st_mtime_ns == before
    assert decoded(tmp_path, names, 4, 1).x.shape == (5, 1, 4, 4)
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "2.png")
    os.utime(tmp_path / "2.png", ns=(1, 1))
    assert not decoded(tmp_path, names, 8, 3).x[2].any()
    assert not list((tmp_path / ".fedsim").glob("*.tmp"))


def test_deleted_images_do_not_stay_in_a_cache(tmp_path: Path) -> None:
    names = files(tmp_path)
    small, large = (decoded(tmp_path, names, size, 3).x for size in (4, 8))
    gone = large[3].tobytes()
    folder = tmp_path / ".fedsim"
    old = 32 * "0"
    (folder / f".{old}.99999999.tmp").write_bytes(gone)  # of a process that was killed
    np.save(folder / f"{old}.npy", large)  # of a version that kept no record
    (folder / "notes.txt").write_text("not a cache")
    (tmp_path / names[3]).unlink()
    left = [name for name in names if name != names[3]]
    some = decoded(tmp_path, left[:2], 8, 3).x  # no file of this cache has changed
    decoded(tmp_path, left, 8, 3)
    assert not [path for path in folder.iterdir() if gone in path.read_bytes()]
    assert len(list(folder.glob("*.json"))) == 2
    assert (folder / "notes.txt").exists()
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert np.array_equal(decoded(tmp_path, left[:2], 8, 3).x, some)
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    assert len(small) == 5  # what is mapped into memory stays readable


def test_the_user_s_cache_folder_keeps_those_of_other_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("os.access", lambda path, mode: False)  # as root, every folder can be written
    roots = [tmp_path / name for name in ("a", "b")]
    for root in roots:
        root.mkdir()
        decoded(root, files(root), 8, 3)
    shared = tmp_path / "cache" / "fedsim" / "images"
    assert len(list(shared.glob("*.json"))) == 2
    (roots[0] / "1.png").unlink()
    decoded(roots[0], ["0.png"], 8, 3)
    assert len(list(shared.glob("*.json"))) == 2  # one of each


def test_moments_are_those_of_the_pixels(tmp_path: Path) -> None:
    found = decoded(tmp_path, files(tmp_path), 8, 3)
    some = slice(1, 4)
    mean, std = found.moments(some)
    assert np.allclose(mean, found.x[some].mean((0, 2, 3)) / 255)
    assert np.allclose(std, found.x[some].std((0, 2, 3)) / 255)


def test_marks_tell_equal_and_similar_images(tmp_path: Path) -> None:
    big = np.asarray(Image.fromarray(PHOTO[:, :32]).resize((64, 64)))
    for name, image in (("a", big), ("b", big), ("c", np.clip(big.astype(int) + 3, 0, 255).astype(np.uint8)),
                        ("d", 255 - big)):  # fmt: skip
        Image.fromarray(image).save(tmp_path / f"{name}.png")
    exact, alike = decoded(tmp_path, [f"{name}.png" for name in "abcd"], 64, 3).marks.T
    assert [len({*exact[:2].tolist()}), len({*exact.tolist()})] == [1, 3]
    assert len({*alike[:3].tolist()}) == 1
    assert alike[3] != alike[0]


def test_broken_images_are_named_and_leave_no_cache(tmp_path: Path) -> None:
    names = files(tmp_path)
    (tmp_path / "1.png").write_bytes((tmp_path / "1.png").read_bytes()[:60])
    (tmp_path / "3.png").write_bytes(b"")
    with pytest.raises(FedsimError, match=r"2 of 5 images cannot be decoded: 1\.png .*, 3\.png \(it is no image\)"):
        decoded(tmp_path, names, 8, 3)
    assert not list((tmp_path / ".fedsim").iterdir())
    assert missing(tmp_path, [*names, "no.png"]).tolist() == [False] * 5 + [True]


def test_a_folder_that_cannot_be_written_has_its_cache_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = files(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # the tests may run as a user that may write anywhere
    decoded(tmp_path, names, 8, 3)
    assert not (tmp_path / ".fedsim").exists()
    assert len(list((tmp_path / "home" / "fedsim" / "images").iterdir())) == 4
