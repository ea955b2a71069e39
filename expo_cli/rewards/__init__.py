"""One file a reward, all behind `rewards.protocol.Reward`."""
