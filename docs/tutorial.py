# %% [markdown]
# A first hour with fedsim in a notebook. Each `# %%` is a cell; Jupyter, VS Code and jupytext open this file as a
# notebook, and `python tutorial.py` runs it through. Everything is offline and takes about a minute.

# %%
import fedsim

# %% [markdown]
# A run is described by a mapping. What is not said has a default; `fedsim options` on the command line shows them all.

# %%
config = {"strategy": "fedavg", "clients": 8, "rounds": 4, "model": "mlp", "training": {"epochs": 2}}
plain = fedsim.run(config, overrides={"name": "plain"}, force=True)
plain  # what matters of it; a notebook shows it as a table

# %% [markdown]
# Every metric of every round is one row of a tidy table, for pandas, seaborn or whatever you draw with.

# %%
table = plain.frame()
table.pivot(index="round", columns="metric", values="value")

# %%
plain.plot()  # accuracies over rounds; plain.plot("train/loss") for others

# %% [markdown]
# The same with another method: keys with dots reach any option.

# %%
prox = fedsim.run(config, overrides={"strategy.name": "fedprox", "strategy.mu": 0.1, "name": "prox"}, force=True)
fedsim.compare(plain, prox)

# %% [markdown]
# Client 3 asks to be forgotten. Fine-tuning stands beside every method; `compare="retrain"` adds the model to come near
# to, and a verdict.

# %%
outcome = fedsim.unlearn(plain, "scrub", "client=3", force=True, name="without-3")
outcome.frame()[["kind", "accuracy_test", "accuracy_forget"]]

# %% [markdown]
# Models predict raw arrays, and need no data set to be loaded.

# %%
model = fedsim.load_model(outcome.folder)
print(model.description.input_shape, model.description.class_names)

# %% [markdown]
# What clients have shown, and with what protection: nothing is protected here, so there is no row.

# %%
fedsim.privacy(plain)

# %% [markdown]
# All of it on one page, for colleagues.

# %%
print(fedsim.report(plain, prox, out="comparison.html"))
