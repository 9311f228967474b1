"""What came of an epoch: metrics, history, the best weights, averages, costs and trackers."""
