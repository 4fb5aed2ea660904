"""Learning from label-private bag means, on linear models where the risk is known in closed form.

Run `python scripts/aggregate_linear.py --out aggregate_linear.json --plot aggregate_linear.png`. It takes about 2
minutes on one CPU core and exits with 1 if a check fails. It has three parts:

- the federation of the preset `aggregate_linear` over 20 seeds: solved exactly and, for three of the seeds, trained;
- simulated and predicted risk over bag sizes, interpolations and dimension ratios;
- the risk under label privacy with the best bag size.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import typer

from fedsim.config.resolve import find_config, resolve
from fedsim.data import federate
from fedsim.data.tabular import linear_truth
from fedsim.randomness import generator
from fedsim.runs.simulation import Simulation
from strategies.aggregate import aggregate_responses
from strategies.aggregate_theory import best_bag_size, cross_validated_rho, limit, private_risk, solution

RHOS = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.7, 1.0)
SIGNAL, SIGMA = 1.0, 0.5
BOUND = 1.6 * math.sqrt(math.log(900))  # C sqrt(log n) of the private curves

Floats = npt.NDArray[np.float64]


@dataclass
class Row:
    """One setting: its excess risks over seeds or draws, and the closed-form prediction."""

    what: str
    risks: list[float]
    theory: float

    def line(self) -> str:
        """Return mean and standard deviation beside the prediction."""
        spread = stdev(self.risks) if len(self.risks) > 1 else 0.0
        return f"{self.what:44s} {mean(self.risks):7.3f} ± {spread:5.3f}   theory {self.theory:7.3f}"


Free = dict[tuple[int, int], list[Row]]
"""By (psi, k), over rho."""
Private = dict[float, dict[tuple[float, int], Row]]
"""By rho, then by (epsilon, k)."""


# The federation -------------------------------------------------------------------------------------------------------


def bags(seed: int, k: int, epsilon: float) -> tuple[Floats, Floats, Floats]:
    """Return x (m, k, d), y (m,) and theta0 of the preset's federation."""
    config = resolve(
        find_config("aggregate_linear"), {"seed": seed, "strategy.bag_size": k, "strategy.epsilon": epsilon}
    )
    held = aggregate_responses(config, federate(config.data, config.clients, seed)).dataset
    return held.x_train, held.y_train, linear_truth(config.data.linear, seed)


def excess(theta: Floats, theta0: Floats) -> float:
    """Return ||theta - theta0||^2."""
    return float(((theta - theta0) ** 2).sum())


def predicted(k: int, rho: float, epsilon: float) -> float:
    """Return the closed form for the federation of the preset."""
    return private_risk(6000 / 20, k, rho, epsilon, bound=3.5, signal=SIGNAL, noise=SIGMA**2)


def federation(seeds: Sequence[int]) -> list[Row]:
    """Return the risks of the exact solutions at two budgets, and the risks with half of the required noise."""
    rows = []
    for epsilon, middle in ((1.0, 0.1), (0.5, 0.4)):
        drawn = [bags(seed, 4, epsilon) for seed in seeds]
        for rho in (0.0, middle, 1.0):
            risks = [excess(solution(x, y, rho), theta0) for x, y, theta0 in drawn]
            rows.append(Row(f"k 4, eps {epsilon:g}, rho {rho:g}", risks, predicted(4, rho, epsilon)))
        chosen = [
            cross_validated_rho(x, y, RHOS, generator(seed, "cv")) for seed, (x, y, _) in zip(seeds, drawn, strict=True)
        ]
        risks = [excess(solution(x, y, rho), t) for rho, (x, y, t) in zip(chosen, drawn, strict=True)]
        rows.append(Row(f"k 4, eps {epsilon:g}, rho cross-validated", risks, math.nan))
        single = [bags(seed, 1, epsilon) for seed in seeds]
        risks = [excess(solution(x, y, 0.0), theta0) for x, y, theta0 in single]
        rows.append(Row(f"k 1, eps {epsilon:g}", risks, predicted(1, 0.0, epsilon)))
    wrong = [bags(seed, 4, 2.0) for seed in seeds]  # the noise of scale B/(k eps): half as much, twice the epsilon
    risks = [excess(solution(x, y, 0.1), theta0) for x, y, theta0 in wrong]
    rows.append(Row("k 4, rho 0.1, scale B/k, which is eps 2", risks, predicted(4, 0.1, 2.0)))
    return rows


def trained(seeds: Sequence[int]) -> list[tuple[Row, float]]:
    """Return the risk after the preset's rounds, and the largest distance of a parameter to the exact solution."""
    out = []
    for rho in (0.0, 0.1, 1.0):
        risks, gaps = [], []
        for seed in seeds:
            changes = {"seed": seed, "strategy.rho": rho, "eval_every": 1000, "rounds": 100}
            simulation = Simulation(resolve(find_config("aggregate_linear"), changes))
            engine, state = simulation.engine(), simulation.begin()
            for _ in range(simulation.config.rounds):
                simulation.step(state, engine)
            theta = state.tensors["classifier.weight"][0].double().numpy()
            x, y, theta0 = bags(seed, 4, 1.0)
            risks.append(excess(theta, theta0))
            gaps.append(float(np.abs(theta - solution(x, y, rho)).max()))
        out.append((Row(f"trained, k 4, eps 1, rho {rho:g}", risks, predicted(4, rho, 1.0)), max(gaps)))
    return out


# Simulated against predicted ------------------------------------------------------------------------------------------


def simulate(
    d: int, psi: float, k: int, rhos: Sequence[float], draws: int, bound: float, epsilon: float | None
) -> list[list[float]]:
    """Return the excess risks of `draws` data sets, for each rho."""
    risks: list[list[float]] = [[] for _ in rhos]
    for draw in range(draws):
        rng = generator(draw, "risk", d, int(psi), k)
        theta0 = rng.standard_normal(d)
        theta0 /= np.linalg.norm(theta0)
        m = round(psi * d) // k
        x = rng.standard_normal((m, k, d))
        y = x @ theta0 + SIGMA * rng.standard_normal((m, k))
        means = y.clip(-bound, bound).mean(axis=1)
        if epsilon is not None:
            means += rng.laplace(scale=2 * bound / (k * epsilon), size=m)
        for rho, found in zip(rhos, risks, strict=True):
            found.append(excess(solution(x, means, rho), theta0))
    return risks


def curves(draws: int) -> Free:
    """Return risk over rho for every (psi, k) with k < psi."""
    out = {}
    for psi in (3, 6, 10):
        for k in (1, 2, 4, 5):
            rhos = [rho for rho in (0.0, 0.05, 0.1, 0.2, 0.4, 0.7, 1.0) if rho > 0 or k < 0.8 * psi]
            risks = simulate(100, psi, k, rhos, draws, math.inf, None)
            out[psi, k] = [
                Row(f"psi {psi}, k {k}, rho {rho:g}", found, limit(psi, k, rho).risk(SIGNAL, SIGMA**2))
                for rho, found in zip(rhos, risks, strict=True)
            ]
    return out


def private_curves(draws: int) -> Private:
    """Return {rho: {(eps, k): risk}} at psi 6, d 150, B = 1.6 sqrt(log n)."""
    out: Private = {0.1: {}, 0.3: {}, 1.0: {}}
    for epsilon in (0.5, 1.0, 2.0, 4.0, 8.0, 16.0):
        for k in range(1, 6):
            risks = simulate(150, 6, k, list(out), draws, BOUND, epsilon)
            for rho, found in zip(out, risks, strict=True):
                theory = private_risk(6, k, rho, epsilon, bound=BOUND, signal=SIGNAL, noise=SIGMA**2)
                out[rho][epsilon, k] = Row(f"eps {epsilon:g}, k {k}, rho {rho:g}", found, theory)
    return out


# Report ---------------------------------------------------------------------------------------------------------------


def checks(rows: list[Row], exact: list[tuple[Row, float]], free: Free, private: Private) -> dict[str, bool]:
    """Return for each expected property whether it holds."""
    found = {row.what: row.risks for row in rows}
    out: dict[str, bool] = {}
    for epsilon, rho in (("1", "0.1"), ("0.5", "0.4")):
        best = found[f"k 4, eps {epsilon}, rho {rho}"]
        for end in ("0", "1"):
            other = found[f"k 4, eps {epsilon}, rho {end}"]
            wins = sum(a < b for a, b in zip(best, other, strict=True))
            out[f"eps {epsilon}: rho {rho} beats rho {end} in mean and in 3 of 4 seeds (won {wins} of {len(best)})"] = (
                mean(best) < mean(other) and wins >= 0.75 * len(best)
            )
    out[f"training reaches the exact solution to 1e-4 (off by {max(gap for _, gap in exact):.1e})"] = all(
        gap < 1e-4 for _, gap in exact
    )
    all_free = [row for rows in free.values() for row in rows]
    worst = max(abs(mean(row.risks) / row.theory - 1) for row in all_free)
    out[f"risk within 6 % of the closed form at all {len(all_free)} settings (worst {100 * worst:.1f} %)"] = (
        worst < 0.06
    )
    for (psi, k), column in free.items():
        theory, risks = [row.theory for row in column], [mean(row.risks) for row in column]
        inner = int(np.argmin(theory))
        if 0 < inner < len(theory) - 1 and k > 1:
            beaten = min(risks[1:-1]) < min(risks[0], risks[-1])
            out[f"psi {psi}, k {k}: the best rho lies inside, as predicted (rho {rhos_of(column)[inner]})"] = beaten
    rows_private = [row for column in private.values() for row in column.values()]
    worst = max(abs(mean(row.risks) / row.theory - 1) for row in rows_private)
    out[f"private risk within 6 % at all {len(rows_private)} settings (worst {100 * worst:.1f} %)"] = worst < 0.06
    for share, by_size in private.items():
        for budget in sorted({eps for eps, _ in by_size}):
            k = best_bag_size(range(1, 6), 6, share, budget, bound=BOUND, signal=SIGNAL, noise=SIGMA**2)
            measured = {size: mean(row.risks) for (eps, size), row in by_size.items() if eps == budget}
            smallest = min(measured, key=lambda size: measured[size])
            # The risks of neighbouring sizes may differ by less than the noise of the simulation.
            out[f"rho {share:g}, eps {budget:g}: best bag size {k} predicted, {smallest} simulated"] = (
                measured[k] <= 1.03 * measured[smallest]
            )
    return out


def rhos_of(column: list[Row]) -> list[str]:
    """Return the rho of each row."""
    return [row.what.rsplit(" ", 1)[1] for row in column]


def plot(path: Path, free: Free, private: Private) -> None:
    """Draw risk over rho at two dimension ratios, and private risk over epsilon."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 4), layout="constrained")
    panels = figure.subplots(1, 3)
    for axes, psi in zip(panels[:2], (6, 10), strict=True):
        for index, k in enumerate((1, 2, 4, 5)):
            rhos = np.linspace(0.0 if k < psi else 0.02, 1, 200)
            axes.plot(rhos, [limit(psi, k, r).risk(SIGNAL, SIGMA**2) for r in rhos], f"C{index}", label=f"bags of {k}")
            column = free[psi, k]
            axes.errorbar(
                [float(rho) for rho in rhos_of(column)], [mean(row.risks) for row in column],
                [stdev(row.risks) / len(row.risks) ** 0.5 for row in column], fmt=f"C{index}o", markersize=4,
            )  # fmt: skip
        axes.set(title=f"{psi} samples per column", xlabel="rho", ylabel="excess risk", ylim=(0, 1))
        axes.legend()
    by_size, axes = private[1.0], panels[2]
    epsilons = sorted({eps for eps, _ in by_size})
    for index, k in enumerate(range(1, 6)):
        axes.plot(epsilons, [by_size[eps, k].theory for eps in epsilons], f"C{index}", label=f"bags of {k}")
        axes.plot(epsilons, [mean(by_size[eps, k].risks) for eps in epsilons], f"C{index}o", markersize=4)
    axes.axhline(SIGNAL, color="grey", linestyle=":", label="predicting 0")
    axes.set(title="label privacy, rho 1", xlabel="epsilon", ylabel="excess risk", xscale="log", yscale="log")
    axes.legend()
    figure.suptitle("Lines: closed form; points: simulation")
    figure.savefig(path, dpi=120)


def main(
    seeds: Annotated[int, typer.Option(help="Federations.")] = 20,
    draws: Annotated[int, typer.Option(help="Data sets per point of the curves.")] = 100,
    out: Annotated[Path | None, typer.Option(help="JSON file for all numbers.")] = None,
    picture: Annotated[Path | None, typer.Option("--plot", help="PNG file for the curves.")] = None,
) -> None:
    """Simulate, train, print tables and checks."""
    rows, exact = federation(range(seeds)), trained(range(min(seeds, 3)))
    free, private = curves(draws), private_curves(draws)
    tables: dict[str, list[Row]] = {
        "federation": [*rows, *(row for row, _ in exact)],
        "curves": [row for column in free.values() for row in column],
        "private": [row for column in private.values() for row in column.values()],
    }
    for title, lines in tables.items():
        print(title, *(f"  {row.line()}" for row in lines), sep="\n")
    verdicts = checks(rows, exact, free, private)
    for what, passed in verdicts.items():
        print("ok    " if passed else "FAILED", what)
    if out is not None:
        dump: dict[str, Any] = {name: [vars(row) for row in lines] for name, lines in tables.items()}
        out.write_text(json.dumps(dump | {"checks": verdicts}, indent=1))
    if picture is not None:
        plot(picture, free, private)
    raise typer.Exit(int(not all(verdicts.values())))


if __name__ == "__main__":
    typer.run(main)
