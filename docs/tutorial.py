# %% [markdown]
# An introduction to fedsim in a notebook. Each `# %%` is a cell. Jupyter, VS Code and jupytext open this file as a
# notebook, and `python tutorial.py` runs it from start to end. It needs no network and takes about a minute.

# %%
import fedsim

# %% [markdown]
# A mapping describes a run. Options that are not given have defaults; the command `fedsim options` shows them all.

# %%
config = {"strategy": "fedavg", "clients": 8, "rounds": 4, "model": "mlp", "training": {"epochs": 2}}
plain = fedsim.run(config, overrides={"name": "plain"}, force=True)
plain  # what matters of it; a notebook shows it as a table

# %% [markdown]
# Every metric of every round is one row of a tidy table, for pandas, seaborn or other plotting libraries.

# %%
table = plain.frame()
table.pivot(index="round", columns="metric", values="value")

# %%
plain.plot()  # accuracies over rounds; plain.plot("train/loss") for others

# %% [markdown]
# The same run with another method. A key with dots sets any option.

# %%
prox = fedsim.run(config, overrides={"strategy.name": "fedprox", "strategy.mu": 0.1, "name": "prox"}, force=True)
fedsim.compare(plain, prox)

# %% [markdown]
# Client 3 asks to be forgotten. Every method is compared with fine-tuning. `compare="retrain"` adds the retrained
# model, which is the target, and a verdict.

# %%
outcome = fedsim.unlearn(plain, "scrub", "client=3", force=True, name="without-3")
outcome.frame()[["kind", "accuracy_test", "accuracy_forget"]]

# %% [markdown]
# A model predicts from raw arrays. It can be loaded without a data set.

# %%
model = fedsim.load_model(outcome.folder)
print(model.description.input_shape, model.description.class_names)

# %% [markdown]
# The information that clients have sent, and its protection. Nothing is protected here, so there is no row.

# %%
fedsim.privacy(plain)

# %% [markdown]
# A report with all results on one page.

# %%
print(fedsim.report(plain, prox, out="comparison.html"))
