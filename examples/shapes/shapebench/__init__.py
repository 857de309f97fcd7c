"""An example of plug-ins for ShardBench: see `shapebench.plugins`."""
