"""One file per reward, all behind `rewards.protocol.Reward`."""
