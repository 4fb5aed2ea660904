"""FedPer: shared base layers and a personal head, trained together (arXiv:1912.00818).

Client: (theta, phi_k) <- E epochs of SGD on F_k from (theta_t, phi_k).   Server: theta as FedAvg; heads stay local.
"""

from fedsim.config.strategy import StrategyConfig
from fedsim.federated.registry import strategy
from strategies.personal_parts import PartsClient, PartsServer

strategy("fedper", StrategyConfig, PartsClient, PartsServer)
