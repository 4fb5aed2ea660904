"""FedAvg: average the models that clients trained on their own data (arXiv:1602.05629).

Client: E epochs of SGD on F_k(w) from w_t.   Server: w_{t+1} = sum_k n_k w_k / sum_k n_k.
"""

from fedsim.config.strategy import StrategyConfig
from fedsim.federated.client import Client
from fedsim.federated.registry import strategy
from fedsim.federated.server import Server

strategy("fedavg", StrategyConfig, Client, Server)
