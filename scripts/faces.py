"""Procedural faces of distinguishable people; the label is the age group, not the person.

They allow experiments on forgetting people without photographs. A person has the same skin, features and texture in
every image. Age, expression, light and pose are drawn per image, independently of the person, so forgotten and
never-seen people are exchangeable. Each image depends only on (seed, person, number): adding people does not change the
images of the others.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from fedsim.randomness import generator

Floats = npt.NDArray[np.float64]

AGES = 8
"""Classes: age groups, equally likely."""
AGE_NOISE = 0.8
"""Standard deviation of the apparent age within a group, in age groups."""
_SKIN = np.array([0.75, 0.58, 0.47])
_MOUTH = np.array([0.6, 0.15, 0.15])


class Person(NamedTuple):
    """Parameters that all images of one person share; lengths in units of the image side."""

    skin: Floats
    hair: Floats
    eyes: Floats
    half_width: float
    half_height: float
    eye_offset: float
    eye_radius: float
    eye_height: float
    nose: float
    mouth_half_width: float
    mouth_height: float
    texture: Floats
    """Texture, (5, 5, 3), stretched over the face."""


def draw_person(seed: int, person: int) -> Person:
    """Return the person with this number."""
    rng = generator(seed, "face-person", person)
    skin = _SKIN + rng.uniform(-0.15, 0.15, 3)
    hair, eyes = rng.uniform(0.05, 0.6, 3), rng.uniform(0, 0.5, 3)
    ranges = (
        (0.27, 0.36),
        (0.36, 0.44),
        (0.11, 0.17),
        (0.025, 0.05),
        (-0.1, -0.04),
        (0.05, 0.12),
        (0.08, 0.15),
        (0.17, 0.23),
    )
    sizes = [float(rng.uniform(*ends)) for ends in ranges]
    return Person(skin, hair, eyes, *sizes, rng.standard_normal((5, 5, 3)))  # type: ignore[call-arg, arg-type]


class Face(NamedTuple):
    """One image of a person."""

    pixels: npt.NDArray[np.uint8]
    """(3, size, size)."""
    age: int
    """Age group, 0 to 7."""
    male: bool
    smiles: bool

    @property
    def young(self) -> bool:
        """Whether the age is in the lower half of the groups."""
        return self.age < AGES // 2


def draw_face(seed: int, number: int, person: int, size: int) -> Face:
    """Return one image of a person."""
    p, rng = draw_person(seed, person), generator(seed, "face-image", person, number)
    age, is_male, smiles = int(rng.integers(AGES)), rng.random() < 0.5, rng.random() < 0.5
    looks = age + AGE_NOISE * rng.standard_normal()
    centre = (np.arange(size) + 0.5) / size - 0.5
    dx, dy = rng.uniform(-1 / 16, 1 / 16, 2)
    x, y = centre[None, :] - dx, centre[:, None] - dy
    image = np.broadcast_to(rng.uniform(0.2, 0.9, 3), (size, size, 3)).copy()

    def paint(where: npt.NDArray[np.bool_], colour: Floats) -> None:
        image[where] = colour[where] if colour.ndim == 3 else colour

    stretched = F.interpolate(torch.from_numpy(p.texture).permute(2, 0, 1)[None], (size, size), mode="bilinear")
    face = (x / p.half_width) ** 2 + (y / p.half_height) ** 2 <= 1
    paint(face, p.skin + 0.05 * stretched[0].permute(1, 2, 0).numpy())
    stripes = 1 - 0.035 * max(looks, 0) * (0.5 + 0.5 * np.cos(2 * np.pi * (y + 0.28) / 0.05))
    forehead = face & (y > -0.34) & (y < -0.13)
    image[forehead] *= np.broadcast_to(stripes, (size, size))[forehead][:, None]
    outside = (x / (p.half_width + 0.05)) ** 2 + ((y + 0.02) / (p.half_height + 0.05)) ** 2 <= 1
    inside = (x / p.half_width) ** 2 + ((y - 0.06) / p.half_height) ** 2 <= 1
    grey = float(np.clip(looks / 7, 0, 1))
    paint(outside & ~inside & (y < (0.1 if is_male else 0.3)), (1 - grey) * p.hair + grey * 0.85)
    for side in (-1, 1):
        paint((x - side * p.eye_offset) ** 2 + (y - p.eye_height) ** 2 <= p.eye_radius**2, p.eyes)
    image[(np.abs(x) < 0.012) & (y > 0) & (y < p.nose)] *= 0.75
    bend = 2.7 * (x**2 - p.mouth_half_width**2 / 4)
    paint((np.abs(x) < p.mouth_half_width) & (np.abs(y - p.mouth_height + (bend if smiles else -bend)) < 0.02), _MOUTH)
    image = image * rng.uniform(0.9, 1.1) + 0.04 * rng.standard_normal(image.shape)
    return Face((image.clip(0, 1) * 255).round().astype(np.uint8).transpose(2, 0, 1), age, is_male, smiles)


def draw_faces(
    seed: int, people: range, images: int, size: int = 32
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return faces (n, 3, size, size), their age groups (n,) and people (n,), `images` of each person."""
    drawn = [draw_face(seed, number, person, size) for person in people for number in range(images)]
    x, age = np.stack([face.pixels for face in drawn]), np.array([face.age for face in drawn], np.int64)
    return x, age, np.repeat(np.array(people, np.int64), images)
