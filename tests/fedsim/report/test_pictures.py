"""A contact sheet shows every image, in rows, with lines between them."""

import numpy as np
import pytest

from fedsim.report.pictures import sheet


@pytest.mark.parametrize("channels", [1, 3])
def test_images_stand_in_rows_and_the_last_row_is_filled_with_white(channels: int) -> None:
    images = np.arange(3 * channels * 4 * 5, dtype=np.uint8).reshape(3, channels, 4, 5)
    shown = np.asarray(sheet(images, columns=2).axes[0].images[0].get_array())
    assert shown.shape[:2] == (2 * 5, 2 * 6)  # a line below and beside each image
    for number, image in enumerate(images):
        row, column = divmod(number, 2)
        cell = shown[5 * row : 5 * row + 4, 6 * column : 6 * column + 5]
        np.testing.assert_array_equal(cell, image[0] if channels == 1 else image.transpose(1, 2, 0))
    assert (shown[5:, 6:] == 255).all()
    assert (shown[4] == 255).all()


def test_fewer_images_than_columns_are_one_row() -> None:
    assert sheet(np.zeros((3, 1, 4, 4), np.uint8)).axes[0].images[0].get_array().shape == (5, 15)
