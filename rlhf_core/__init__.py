"""RLHF from scratch: small, readable reference implementations that train real models.

Import the module you need (`from rlhf_core.ppo import clipped_policy_loss`); nothing heavy is imported here.
"""

__version__ = "0.1.0"
