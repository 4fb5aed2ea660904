"""Procedural faces on disk, in the folders and files of MUFAC and MUCAC, so that the same readers read them.

`python scripts/faces_tree.py mufac FOLDER --people 60` writes such a folder. People are numbered as in `faces.py`:
first those to train on, then never-seen ones, then those to test on. With another number of training people, the other
people therefore have other images.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from faces import AGES, Face, draw_face
from PIL import Image

from fedsim.randomness import generator

ROLES_IN_FAMILY = ("F", "M", "S", "D", "GF", "GM", "S2", "D2")
MUFAC_FOLDER = "custom_korean_family_dataset_resolution_128"
CELEBA = re.findall(
    r"\w+",
    "5_o_Clock_Shadow Arched_Eyebrows Attractive Bags_Under_Eyes Bald Bangs Big_Lips Big_Nose Black_Hair Blond_Hair "
    "Blurry Brown_Hair Bushy_Eyebrows Chubby Double_Chin Eyeglasses Goatee Gray_Hair Heavy_Makeup High_Cheekbones Male "
    "Mouth_Slightly_Open Mustache Narrow_Eyes No_Beard Oval_Face Pale_Skin Pointy_Nose Receding_Hairline Rosy_Cheeks "
    "Sideburns Smiling Straight_Hair Wavy_Hair Wearing_Earrings Wearing_Hat Wearing_Lipstick Wearing_Necklace "
    "Wearing_Necktie Young",
)
"""CelebA's attributes, in its order."""


@dataclass(frozen=True)
class Cast:
    """Number of people of each role, and number of images of each person."""

    train: int = 60
    unseen: int = 18
    test: int = 30
    images: int = 12
    in_family: int = 4
    """People of a family; at most 8."""

    @property
    def people(self) -> dict[str, range]:
        """The numbers of the people of each role."""
        ends = np.cumsum([0, self.train, self.unseen, self.test]).tolist()
        return {role: range(*ends[k : k + 2]) for k, role in enumerate(("train", "unseen", "test"))}


def of_size(people: int, images: int = 12) -> Cast:
    """Return the cast for a number of training people: 0.3 times as many never seen, 0.5 times as many to test on."""
    return Cast(people, round(0.3 * people), round(0.5 * people), images)


def save(face: Face, path: Path) -> None:
    """Write an image as a JPEG of quality 95 without chroma subsampling."""
    Image.fromarray(face.pixels.transpose(1, 2, 0)).save(path, quality=95, subsampling=0)


def write_mufac(root: Path, cast: Cast, seed: int = 0, size: int = 32) -> Path:
    """Write MUFAC's folder below `root` and return it; rows are sorted by family, role and file."""
    folder = root / MUFAC_FOLDER
    layout = {"train": ("train", 1), "test": ("val", 801), "unseen": ("test", 851)}
    for role, (name, first) in layout.items():
        images = folder / f"{name}_images"
        images.mkdir(parents=True)
        rows = []
        for place, person in enumerate(cast.people[role]):
            family, member = f"F{first + place // cast.in_family:04d}", ROLES_IN_FAMILY[place % cast.in_family]
            built = int(generator(seed, "face-built", person).integers(20, 81))
            counts = [0] * AGES
            for number in range(cast.images):
                face = draw_face(seed, number, person, size)
                counts[face.age] += 1
                file = f"{family}_AGE_{member}_{built}_{'abcdefgh'[face.age]}{counts[face.age]}.jpg"
                save(face, images / file)
                rows.append((family, member, "abcdefgh"[face.age], file))
        lines = [",".join(row) for row in sorted(rows, key=lambda row: (row[0], row[1], row[3]))]
        table = "\n".join(["family_id,person_id,age_class,image_path", *lines, ""])
        (folder / f"custom_{name}_dataset.csv").write_text(table, encoding="utf-8")
    return folder


def write_mucac(root: Path, cast: Cast, forget: int, seed: int = 0, size: int = 32) -> tuple[int, int, int]:
    """Write MUCAC's folders below `root`; return the thresholds between: test people < forget < keep < never seen."""
    images = root / "CelebAMask-HQ" / "CelebA-HQ-img"
    images.mkdir(parents=True)
    people = cast.people
    order = [*people["test"], *people["train"], *people["unseen"]]
    identities: list[str] = []
    attributes: list[str] = []
    for identity, person in enumerate(order):
        for number in range(cast.images):
            face = draw_face(seed, number, person, size)
            name = f"{len(identities)}.jpg"
            save(face, images / name)
            known = {"Male": face.male, "Smiling": face.smiles, "Young": face.young}
            others = generator(seed, "face-attributes", person, number).random(len(CELEBA)) < 0.5
            flags = [known.get(attribute, other) for attribute, other in zip(CELEBA, others.tolist(), strict=True)]
            identities.append(f"{name} {identity}")
            attributes.append(f"{name}  {' '.join('1' if flag else '-1' for flag in flags)}")
    lines = [str(len(attributes)), " ".join(CELEBA), *attributes]
    (root / "CelebA-HQ-attribute.txt").write_text("\n".join([*lines, ""]), encoding="utf-8")
    (root / "CelebA-HQ-identity.txt").write_text("\n".join([*identities, ""]), encoding="utf-8")
    return cast.test, cast.test + forget, cast.test + cast.train


def main(
    benchmark: Annotated[str, typer.Argument(help="mufac or mucac")],
    folder: Annotated[Path, typer.Argument(help="where to write")],
    people: Annotated[int, typer.Option(help="People to train on.")] = 60,
    images: Annotated[int, typer.Option(help="Images of each.")] = 12,
    size: Annotated[int, typer.Option(help="Pixels a side.")] = 32,
    seed: Annotated[int, typer.Option(help="Of all draws.")] = 0,
) -> None:
    """Write a procedural MUFAC or MUCAC."""
    cast = of_size(people, images)
    if benchmark == "mufac":
        print(write_mufac(folder, cast, seed, size))
    elif benchmark == "mucac":
        low, middle, high = write_mucac(folder, cast, cast.unseen, seed, size)
        print(f"fedsim run --dataset mucac --data-root {folder} --set data.mucac.thresholds=[{low},{middle},{high}]")
    else:
        raise typer.BadParameter("must be mufac or mucac")


if __name__ == "__main__":
    typer.run(main)
