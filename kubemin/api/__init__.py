"""The parts behind `kubemin.client`: arguments as JSON, submissions as bytes, the way to the store, runs, waiting."""
