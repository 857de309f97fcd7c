"""ShardBench: benchmark strategies for distributed training, one pytest case at a time."""
