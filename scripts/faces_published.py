"""The tables of MUFAC and MUCAC as their authors print them (arXiv:2311.02240, README of their code).

Accuracy is on the set to test on, FS is |MIA - 1/2|, NoMUS = (accuracy + 1 - 2 FS) / 2. The rows are of one run each.
"""

from __future__ import annotations

from typing import NamedTuple

METHODS = (
    "original", "retrained", "fine-tuning", "CF-3", "NegGrad", "UNSIR stage 1", "UNSIR stage 2", "SCRUB",
    "advanced NegGrad",
)  # fmt: skip


class Published(NamedTuple):
    """One table; each tuple has a number for each of METHODS."""

    accuracy: tuple[float, ...]
    fs: tuple[float, ...]
    nomus: tuple[float, ...]


TABLES = {
    "MUFAC": Published(
        (0.5951, 0.488, 0.6055, 0.5900, 0.4048, 0.5893, 0.5925, 0.5984, 0.5633),
        (0.2136, 0.0445, 0.2129, 0.2126, 0.0485, 0.2089, 0.1990, 0.1415, 0.0953),
        (0.5839, 0.6995, 0.5898, 0.5824, 0.6539, 0.5857, 0.5972, 0.6577, 0.6863),
    ),
    "MUCAC": Published(
        (0.8852, 0.8135, 0.9147, 0.9197, 0.4193, 0.7087, 0.9220, 0.9073, 0.7607),
        (0.0568, 0.0436, 0.0708, 0.0685, 0.0356, 0.0324, 0.0705, 0.0478, 0.0152),
        (0.8858, 0.8631, 0.8865, 0.8913, 0.6740, 0.8219, 0.8905, 0.9058, 0.8651),
    ),
    "MUCAC Male": Published(
        (0.9835, 0.9515, 0.9849, 0.9840, 0.1762, 0.9481, 0.9845, 0.1762, 0.9147),
        (0.0306, 0.0154, 0.0281, 0.0291, 0.1289, 0.0638, 0.0481, 0.1329, 0.0129),
        (0.9611, 0.9603, 0.9643, 0.9629, 0.4592, 0.9102, 0.9441, 0.4552, 0.9444),
    ),
    "MUCAC Smiling": Published(
        (0.9467, 0.6518, 0.9476, 0.9472, 0.5549, 0.8619, 0.9506, 0.5549, 0.9423),
        (0.0346, 0.0182, 0.0279, 0.0294, 0.0366, 0.0416, 0.0271, 0.468, 0.0354),
        (0.9387, 0.8077, 0.9459, 0.9442, 0.7408, 0.8893, 0.9482, 0.3094, 0.9357),
    ),
    "MUCAC Young": Published(
        (0.9089, 0.8271, 0.9147, 0.9118, 0.1733, 0.826, 0.9021, 0.8929, 0.5573),
        (0.0456, 0.0234, 0.0426, 0.0456, 0.0513, 0.0229, 0.0493, 0.0428, 0.0139),
        (0.9088, 0.8901, 0.9147, 0.9103, 0.5353, 0.8901, 0.9017, 0.9036, 0.7647),
    ),
}
